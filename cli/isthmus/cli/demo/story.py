"""What happens in the demo, step by step, and whether it was true."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from isthmus.cli.demo.bookinfo import FIRST, Bookinfo, Instance
from isthmus.cli.demo.load import Load
from isthmus.cli.demo.programs import DemoError
from isthmus.cli.demo.proxy import Proxy
from isthmus.cli.demo.registries import EmbeddedRegistry, Entry
from isthmus.registry.model import Health

CHANGES = 40
"""Changes of the last act, which make the percentiles mean something."""

_ARRIVAL_SECONDS = 10.0
_QUIET_SECONDS = 1.0
"""How long an instance that is to get nothing is watched."""
_SPREAD_SECONDS = 0.1
"""After Envoy's main thread has acknowledged, its workers take a moment, and requests are still on their way."""


class Step(msgspec.Struct):
    """One thing that is to be true."""

    name: str
    ok: bool | None = None
    """None while it is not known."""
    detail: str = ""


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds; None when nothing was measured."""

    p50: float | None
    p99: float | None


class Summary(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    ok: bool
    registry: str
    requests: int
    failed: int
    registry_to_ack_ms: Percentiles
    steps: list[Step]


def percentiles(values: list[float]) -> Percentiles:
    """By the nearest rank, rounded to a tenth."""
    if not values:
        return Percentiles(None, None)
    ranked = sorted(values)
    p50, p99 = (round(ranked[math.ceil(share * len(ranked)) - 1], 1) for share in (0.5, 0.99))
    return Percentiles(p50, p99)


class Story:
    """The steps, over a registry, a proxy that reads it through the bridge, and a Bookinfo under load."""

    def __init__(self, registry: EmbeddedRegistry, proxy: Proxy, bookinfo: Bookinfo, load: Load) -> None:
        self.steps: list[Step] = []
        self.entries: dict[str, dict[str, Entry]] = {}
        self.ack_ms: list[float] = []
        self._registry = registry
        self._proxy = proxy
        self._bookinfo = bookinfo
        self._load = load
        self._acts: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("the registry's services reach Envoy", self._first_listing),
            ("requests flow to every instance", self._requests_flow),
            ("an added instance gets requests", self._add),
            ("an unhealthy instance gets none", self._make_unhealthy),
            ("a recovered instance gets them again", self._recover),
            ("a removed instance gets none", self._remove),
            (f"{CHANGES} changes under load", self._many_changes),
            ("Envoy refused nothing", self._nothing_refused),
        ]
        self.steps = [Step(name) for name, _ in self._acts] + [Step("no request failed")]

    async def run(self, pause: float) -> None:
        """Play it to the end, or to the first step that is not true; `pause` seconds before each step, for the eye."""
        for step, (_, act) in zip(self.steps, self._acts, strict=False):
            await asyncio.sleep(pause)
            try:
                step.detail = await act()
                step.ok = True
            except DemoError as e:
                step.ok, step.detail = False, str(e)
                return

    def judge_requests(self) -> None:
        """Whether any request failed so far: the last step."""
        step = self.steps[-1]
        step.ok = self._load.requests > 0 and self._load.failed == 0
        step.detail = f"{self._load.requests} requests, {self._load.failed or 'none'} failed"
        if self._load.first_failure:
            step.detail += f", the first by {self._load.first_failure}"

    def summary(self) -> Summary:
        """How it went so far. What was not reached was not true."""
        return Summary(
            ok=all(s.ok for s in self.steps),
            registry=self._registry.kind,
            requests=self._load.requests,
            failed=self._load.failed,
            registry_to_ack_ms=percentiles(self.ack_ms),
            steps=[Step(s.name, bool(s.ok), s.detail or "not reached") for s in self.steps],
        )

    async def _first_listing(self) -> str:
        for service in dict.fromkeys(service for service, _, _ in FIRST):
            instances = [await self._bookinfo.start(*known) for known in FIRST if known[0] == service]
            self.entries[service] = {i.id: _entry(i) for i in instances}
            await self._registry.write(service, self.entries[service].values())
        for service, entries in self.entries.items():
            await self._proxy.acknowledged(service, list(entries.values()))
        await self._proxy.listening()
        status = self._proxy.status()
        if status is None:
            raise DemoError("Envoy has left the bridge")
        self._load.start()
        return f"{len(self.entries)} services, {len(FIRST)} instances; {status.user_agent} by {status.variant} xDS"

    async def _requests_flow(self) -> str:
        instances = self._bookinfo.instances
        await _until(lambda: all(i.requests for i in instances.values()), lambda: _idle(instances.values()))
        pages = self._load.requests
        await _until(lambda: self._load.requests >= pages + self._load.rate, lambda: "the load stands still")
        return f"all {len(instances)} instances answered"

    async def _add(self) -> str:
        instance = await self._bookinfo.start("reviews", "v3", "reviews-v3-2")
        ms = await self._put(_entry(instance))
        began = time.monotonic()
        await _until(lambda: instance.requests > 0, lambda: f"{instance.id} got no request")
        first = (time.monotonic() - began) * 1000
        return f"{instance.id} acknowledged after {ms:.0f} ms, its first request {first:.0f} ms later"

    async def _make_unhealthy(self) -> str:
        instance = self._bookinfo.instances["details-2"]
        ms = await self._put(_entry(instance, Health.UNHEALTHY))
        await asyncio.sleep(_SPREAD_SECONDS)
        instance.is_broken = True
        return f"{instance.id} acknowledged after {ms:.0f} ms, {await self._quiet(instance)}"

    async def _recover(self) -> str:
        instance = self._bookinfo.instances["details-2"]
        instance.is_broken = False
        before = instance.requests
        ms = await self._put(_entry(instance))
        await _until(lambda: instance.requests > before, lambda: f"{instance.id} got no request")
        return f"{instance.id} acknowledged after {ms:.0f} ms"

    async def _remove(self) -> str:
        """Taken out of the registry, it drains; it stops when Envoy has let go of it."""
        instance = self._bookinfo.instances["ratings-2"]
        began = time.monotonic()
        ms = await self._drop("ratings", instance.id)
        quiet = await self._quiet(instance)
        gone = await self._proxy.gone("ratings", instance.port) - began
        await self._bookinfo.stop(instance.id)
        return f"{instance.id} acknowledged after {ms:.0f} ms, {quiet}, gone after {gone:.1f} s"

    async def _many_changes(self) -> str:
        """Weights up and down, an instance that comes and goes."""
        guest = await self._bookinfo.start("ratings", "v1", "ratings-3")
        settled = self._versions("CDS", "LDS", "RDS")
        took: list[float] = []
        for i in range(CHANGES // 4):
            weight = 1 + (i + 1) % 3
            took.append(await self._put(_entry(self._bookinfo.instances["reviews-v1-1"], weight=weight)))
            took.append(await self._put(_entry(guest)))
            took.append(await self._put(_entry(self._bookinfo.instances["productpage-2"], weight=weight)))
            took.append(await self._drop("ratings", guest.id))
        await self._quiet(guest)
        await self._proxy.gone("ratings", guest.port)
        await self._bookinfo.stop(guest.id)
        if self._versions("CDS", "LDS", "RDS") != settled:
            raise DemoError("changes of endpoints alone changed clusters, listeners or routes as well")
        found = percentiles(took)
        return f"acknowledged after {found.p50:.0f} ms (p50), {found.p99:.0f} ms (p99); endpoints alone were sent"

    async def _nothing_refused(self) -> str:
        self._proxy.check()
        rejected = await self._proxy.statistic(r"update_rejected$")
        if rejected:
            raise DemoError(f"Envoy counts {rejected} rejected updates")
        return (
            f"no NACK; Envoy repeated {await self._proxy.statistic(r'^cluster.outbound.*upstream_rq_retry$')} requests"
        )

    async def _put(self, entry: Entry) -> float:
        """Add or alter one instance; milliseconds from the registry's change to Envoy's acknowledgement."""
        return await self._change(entry.service, self.entries[entry.service] | {entry.id: entry})

    async def _drop(self, service: str, id_: str) -> float:
        return await self._change(service, {k: e for k, e in self.entries[service].items() if k != id_})

    async def _change(self, service: str, entries: dict[str, Entry]) -> float:
        written = await self._registry.write(service, entries.values())
        self.entries[service] = entries
        acknowledged = await self._proxy.acknowledged(service, list(entries.values()))
        ms = (acknowledged - written) * 1000
        self.ack_ms.append(ms)
        return ms

    def _versions(self, *types: str) -> dict[str, str]:
        status = self._proxy.status()
        return {t.type: t.acked for t in status.types if t.type in types} if status else {}

    async def _quiet(self, instance: Instance) -> str:
        """Watch an instance that is to get no request."""
        await asyncio.sleep(_SPREAD_SECONDS)
        requests, pages = instance.requests, self._load.requests
        await asyncio.sleep(_QUIET_SECONDS)
        if instance.requests != requests:
            raise DemoError(f"{instance.id} still got {instance.requests - requests} requests")
        return f"no request in {self._load.requests - pages} pages"


def _entry(instance: Instance, health: Health = Health.HEALTHY, weight: int = 1) -> Entry:
    return Entry(instance.service, instance.version, instance.id, instance.port, health, weight)


def _idle(instances: Iterable[Instance]) -> str:
    return f"no request reached {', '.join(i.id for i in instances if not i.requests)}"


async def _until(true: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for something. Raises DemoError when it takes longer than 10 s."""
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise DemoError(f"{otherwise()} within {_ARRIVAL_SECONDS:.0f} s")
        await asyncio.sleep(0.005)
