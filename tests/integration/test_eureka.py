"""The Eureka adapter against real servers of Spring Cloud: by polls, by the replica feed, and with one of two servers gone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.model import Health, Locality, Origin, Port, Protocol
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.eureka import Eureka, mk_instance
from tests.servers.process import free_port
from tests.wait import eventually

REPLICATED_WITHIN = 60
"""Seconds: a batch that a busy server turns away is sent again up to half a minute later."""

FEED_PORT = free_port()
LOGIN = {"user": "eureka", "password": "s3cret"}
_number = itertools.count(1)
SHORT = {"renewalIntervalInSecs": 1, "durationInSecs": 3}


class Pair:
    """Two servers that replicate to each other; the first one feeds a bridge as well."""

    def __init__(self, directory: Path) -> None:
        ports = free_port(), free_port()
        addresses = [f"http://127.0.0.1:{port}/eureka" for port in ports]
        bridge = f"http://{LOGIN['user']}:{LOGIN['password']}@127.0.0.1:{FEED_PORT}/eureka"
        self.fast = Eureka(directory, peers=[addresses[1], bridge], port=ports[0])
        self.other = Eureka(directory, {"eureka.server.eviction-interval-timer-in-ms": "500"}, [addresses[0]], ports[1])
        self.both = (self.fast, self.other)

    async def ready(self) -> None:
        await asyncio.gather(*(server.ready() for server in self.both))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("eureka"))
    try:
        for server in pair.both:
            server.start()
        asyncio.run(pair.ready())
        yield pair
    finally:
        for server in pair.both:
            server.stop()


@pytest.fixture
async def pair(shared: Pair) -> AsyncIterator[Pair]:
    """Both servers, running."""
    yield shared
    for server in shared.both:
        if not server.running:
            server.start()
    await shared.ready()


@pytest.fixture
def app() -> str:
    """A name of its own for each test's application: for half a minute a server tries again to send what no peer took."""
    return f"web-{next(_number)}"


def mk_adapter(*servers: Eureka, **options: Any) -> EurekaAdapter:
    origin = Origin("spring", "eureka")
    said = {"addresses": [s.address for s in servers], "poll_interval": 0.2, "timeout": 2} | options
    return EurekaAdapter(origin, msgspec.convert(said, EurekaConfig), OriginStatus(origin))


@contextlib.asynccontextmanager
async def reading(*servers: Eureka, **options: Any) -> AsyncIterator[Following]:
    """An adapter under way, after its first snapshot."""
    async with following(mk_adapter(*servers, **options)) as seen:
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen


def health(seen: Following, app: str) -> dict[str, Health]:
    """The health of the instances of one application."""
    service = seen.service(app)
    return {i.id: i.health for i in service.instances} if service else {}


async def test_what_a_service_becomes(pair: Pair, app: str) -> None:
    eureka = pair.other
    await eureka.register(
        app,
        "10.0.0.1:reviews:9080",
        ipAddr="10.0.0.1",
        port=9080,
        securePort=9443,
        vipAddress="reviews,reviews.example",
        secureVipAddress="reviews-tls",
        metadata={"zone": "a", "version": "v1", "management.port": "9081", "weight": "3"},
    )
    async with reading(eureka) as seen:
        service = seen.service(app)
        assert service is not None
        assert service.key.namespace == "default"
        assert service.ports == (Port("http", 9080, Protocol.HTTP), Port("https", 9443, Protocol.HTTPS))
        assert service.hostnames == {app, "reviews", "reviews.example", "reviews-tls"}
        (instance,) = service.instances
        assert (instance.address, instance.ports) == ("10.0.0.1", {"http": 9080, "https": 9443})
        assert (instance.weight, instance.locality) == (3, Locality("", "a"))
        assert instance.labels == {"zone": "a", "version": "v1", "management.port": "9081", "weight": "3"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("UP", Health.HEALTHY),
        ("DOWN", Health.UNHEALTHY),
        ("STARTING", Health.UNHEALTHY),
        ("OUT_OF_SERVICE", Health.DRAINING),
        ("UNKNOWN", Health.UNHEALTHY),
    ],
)
async def test_what_an_instance_says_of_itself(pair: Pair, app: str, status: str, expected: Health) -> None:
    await pair.other.register(app, f"{app}-1", status=status)
    async with reading(pair.other) as seen:
        assert health(seen, app) == {f"{app}-1": expected}


async def test_an_operator_takes_an_instance_out_and_back(pair: Pair, app: str) -> None:
    await pair.other.register(app, f"{app}-1")
    async with reading(pair.other) as seen:
        await pair.other.set_status(app, f"{app}-1", "OUT_OF_SERVICE")
        await eventually(lambda: health(seen, app) == {f"{app}-1": Health.DRAINING}, "out of service")
        await pair.other.clear_status(app, f"{app}-1")
        await eventually(lambda: health(seen, app) == {f"{app}-1": Health.HEALTHY}, "back again")


async def test_an_instance_that_eureka_gives_up_leaves(pair: Pair, app: str) -> None:
    """By a delta: an eviction is seen to happen, and no doubt arises."""
    await pair.other.register(app, f"{app}-1")
    await pair.other.register(app, f"{app}-2", leaseInfo=SHORT)
    async with reading(pair.other) as seen:
        await eventually(lambda: health(seen, app) == {f"{app}-1": Health.HEALTHY}, "the eviction", timeout=20)
        assert seen.latest.doubt == ""


async def test_quiet_polls_are_no_news(pair: Pair, app: str) -> None:
    await pair.other.register(app, f"{app}-1")
    adapter = mk_adapter(pair.other)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
        before = len(seen.snapshots)
        for _ in range(5):
            await pair.other.renew(app, f"{app}-1")
            await adapter.listing()
        later = seen.snapshots[before:]
        assert [s for s in later if s.changed is None or app in {key.name for key in s.changed}] == []


async def test_a_change_that_the_server_leaves_out_of_its_answer(pair: Pair, app: str) -> None:
    """It came while the server made the answer, which stays until something else happens. Nothing else happens here."""
    eureka = pair.other
    await eureka.register(app, f"{app}-0")
    async with reading(eureka) as seen, aiohttp.ClientSession(headers={"Accept": "application/json"}) as session:

        async def put(n: int) -> None:
            body = mk_instance(app, f"{app}-{n}")
            async with session.post(f"{eureka.address}/apps/{app.upper()}", json=body) as answer:
                assert answer.status == 204

        async def tells(n: int, kind: str) -> bool:
            async with session.get(f"{eureka.address}/apps/delta", headers={"X-Eureka-Accept": kind}) as answer:
                return f'"{app}-{n}"' in await answer.text()

        for n in itertools.count(1):
            assert n < 200, "the server's answers lack nothing"
            await put(0)  # so that there is no answer yet
            await asyncio.gather(tells(n, "full"), put(n))
            if await tells(n, "compact") and not await tells(n, "full"):
                break
        await eventually(lambda: f"{app}-{n}" in health(seen, app), "the other kind of answer tells")
        assert not await tells(n, "full")


async def test_one_of_two_servers_is_killed(pair: Pair, app: str) -> None:
    """The other one takes over; what it has is the same."""
    for server in (pair.other, pair.fast):
        await server.register(app, f"{app}-1")
    adapter = mk_adapter(*pair.both)
    adapter._servers.rotate(adapter._servers.index(pair.other.address) * -1)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
        pair.other.kill()
        await eventually(lambda: seen.error, "it is noticed")
        assert pair.other.address in str(seen.error)
    async with following(adapter) as again:
        await eventually(lambda: again.snapshots, "a listing of the other server")
        assert health(again, app) == {f"{app}-1": Health.HEALTHY}
        await pair.fast.register(app, f"{app}-2", ipAddr="10.0.0.2")
        await eventually(lambda: len(health(again, app)) == 2, "a change")


async def timed(what: str, action: Awaitable[None], check: Callable[[], bool]) -> float:
    """Seconds from the beginning of an action until it is seen."""
    began = time.monotonic()
    await action
    await eventually(check, what, timeout=15, every=0.005)
    return time.monotonic() - began


async def test_the_feed_brings_changes_within_two_seconds(pair: Pair, app: str) -> None:
    """A server sends batches about every half second; polls are far slower here."""
    feed = LOGIN | {"listen": f"127.0.0.1:{FEED_PORT}", "poll_interval": 300}
    eureka = pair.fast
    async with reading(eureka, poll_interval=300, feed=feed) as seen:
        took = {
            "register": await timed(
                "the registration",
                eureka.register(app, f"{app}-1"),
                lambda: health(seen, app).get(f"{app}-1") is Health.HEALTHY,
            ),
            "override": await timed(
                "the override",
                eureka.set_status(app, f"{app}-1", "OUT_OF_SERVICE"),
                lambda: health(seen, app)[f"{app}-1"] is Health.DRAINING,
            ),
            "clear": await timed(
                "its end", eureka.clear_status(app, f"{app}-1"), lambda: health(seen, app)[f"{app}-1"] is Health.HEALTHY
            ),
            "cancel": await timed(
                "the cancellation", eureka.cancel(app, f"{app}-1"), lambda: f"{app}-1" not in health(seen, app)
            ),
        }
    assert max(took.values()) < 2, took


async def test_the_feed_tells_a_crash_after_three_heartbeats(pair: Pair, app: str) -> None:
    """This server gives nobody up for an hour. Who renews with the other server only is not taken for dead."""
    feed = LOGIN | {"listen": f"127.0.0.1:{FEED_PORT}", "poll_interval": 300}
    long = SHORT | {"durationInSecs": 600}
    for n in (1, 2, 3):
        for server in (pair.fast, pair.other):
            await server.register(app, f"{app}-{n}", ipAddr=f"10.0.0.{n}", leaseInfo=long)
    async with reading(pair.fast, poll_interval=300, feed=feed) as seen:
        for n in (1, 2, 3):
            await pair.fast.renew(app, f"{app}-{n}")

        async def crashed() -> bool:
            await pair.fast.renew(app, f"{app}-1")
            await pair.other.renew(app, f"{app}-2")
            return health(seen, app)[f"{app}-3"] is Health.UNHEALTHY

        await eventually(crashed, "the crash of crash-3", timeout=20, every=0.5)
        assert health(seen, app) == {
            f"{app}-1": Health.HEALTHY,
            f"{app}-2": Health.HEALTHY,
            f"{app}-3": Health.UNHEALTHY,
        }
        await pair.fast.renew(app, f"{app}-3")
        await eventually(lambda: health(seen, app)[f"{app}-3"] is Health.HEALTHY, "it is back")


async def test_a_gap_of_the_feed_is_healed_by_the_next_heartbeat(pair: Pair, app: str) -> None:
    """The server answers 404 with the whole instance."""
    feed = LOGIN | {"listen": f"127.0.0.1:{FEED_PORT}", "poll_interval": 300}
    async with reading(pair.fast, poll_interval=300, feed=feed) as seen:
        await pair.other.register(app, f"{app}-1")  # replicated to the first server, which does not pass it on

        async def replicated() -> bool:
            return f"{app}-1" in await pair.fast.instances()

        await eventually(replicated, "both have it", timeout=REPLICATED_WITHIN)
        assert f"{app}-1" not in health(seen, app)
        await pair.fast.renew(app, f"{app}-1")
        await eventually(lambda: health(seen, app).get(f"{app}-1") is Health.HEALTHY, "the whole instance came")
