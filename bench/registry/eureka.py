"""A Eureka that serves as many services as one likes, by its cached listings and by replication to the bridge.

Every instance renews every 30 s, and each renewal is replicated like any change: to 50,000 instances that is 1,667 a second.
Replication waits for half a second and then goes in batches of at most 250, as com.netflix.eureka.util.batcher does it. A batch
that cannot be delivered is lost; the real one tries again until what is in it expires.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import zlib
from collections import deque
from collections.abc import Iterable

import aiohttp
import msgspec

from bench.registry.population import PORT, Fleet, State
from bench.registry.web import Request

WINDOW = 0.5
"""Seconds that replication waits for company (maxBatchingDelay)."""
BATCH = 250
SENDERS = 20
RENEWAL = 30.0
CACHED = 30.0
"""Seconds after which all answers are made anew, at the same time (response-cache-update-interval-ms)."""
RETENTION = 180.0
"""Seconds for which deltas tell a change (retention-time-in-m-s-in-delta-queue)."""
LEFT_OUT = frozenset(
    {
        *("overriddenStatus", "countryId", "leaseInfo", "metadata", "homePageUrl", "statusPageUrl", "healthCheckUrl"),
        *("isCoordinatingDiscoveryServer", "lastDirtyTimestamp"),
    }
)
"""What compact answers do not have."""
TICK = 0.01

BEGAN = 1_760_000_000_000
"""Where the clocks of the instances begin, in milliseconds."""


class ScriptedEureka:
    """One server. `put` changes an instance, `handle` answers, `replicate` runs until it is cancelled."""

    def __init__(self, fleet: Fleet, feed: str) -> None:
        self._fleet = fleet
        self._feed = feed
        self._dirty: dict[tuple[int, int], int] = {}
        self._clock = itertools.count(BEGAN + 1)
        self._numbers = {State(n, 0).name.upper(): n for n in range(fleet.size)}
        self._recent: dict[tuple[int, int], float] = {}
        self._version = 1
        self._cached: dict[str, tuple[int, bytes]] = {}
        self._queue: deque[tuple[float, bytes]] = deque()
        self._down = 0

    def put(self, state: State) -> None:
        """The instance registers itself anew, so."""
        before = self._fleet.put(state)
        self._down += before.healthy - state.healthy
        at = (state.service, state.instance)
        self._dirty[at] = next(self._clock)
        self._recent[at] = time.monotonic()
        self._replicate(state, "Register", self._instance(state))

    def handle(self, request: Request) -> None:
        match request.path.removeprefix("/eureka").split("/")[1:]:
            case ["apps"]:
                self._answer_cached(request, "apps")
            case ["apps", "delta"]:
                brief = request.headers.get("x-eureka-accept") == "compact"
                self._answer_cached(request, "delta in brief" if brief else "delta")
            case ["apps", app, id_] if app in self._numbers:
                state = self._fleet.state(self._numbers[app], int(id_.rpartition("-")[2]))
                request.answer(msgspec.json.encode({"instance": self._instance(state)}))
            case _:
                request.answer(b'{"status":404}', status=404)

    async def replicate(self) -> None:
        """Send what is replicated, with everybody's renewals."""
        loop = asyncio.get_running_loop()
        senders = asyncio.Semaphore(SENDERS)
        everybody = itertools.cycle(divmod(n, self._fleet.instances) for n in range(len(self._fleet)))
        due, last = 0.0, loop.time()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            while True:
                now = loop.time()
                due, last = due + (now - last) * len(self._fleet) / RENEWAL, now
                for service, instance in itertools.islice(everybody, int(due)):
                    self._replicate(self._fleet.state(service, instance), "Heartbeat")
                due %= 1
                while self._queue and now - self._queue[0][0] >= WINDOW:
                    batch = [self._queue.popleft()[1] for _ in range(min(BATCH, len(self._queue)))]
                    await senders.acquire()
                    group.create_task(self._send(session, senders, batch))
                await asyncio.sleep(TICK)

    async def _send(self, session: aiohttp.ClientSession, senders: asyncio.Semaphore, batch: Iterable[bytes]) -> None:
        body = b'{"replicationList":[' + b",".join(batch) + b"]}"
        headers = {"Content-Type": "application/json", "x-netflix-discovery-replication": "true"}
        try:
            async with session.post(
                f"{self._feed}/eureka/peerreplication/batch/", data=body, headers=headers
            ) as answer:
                await answer.read()
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
        finally:
            senders.release()

    def _replicate(self, state: State, action: str, instance: dict[str, object] | None = None) -> None:
        said: dict[str, object] = {
            "appName": state.name.upper(),
            "id": state.id,
            "lastDirtyTimestamp": self._dirty.get((state.service, state.instance), BEGAN),
            "overriddenStatus": "UNKNOWN",
            "status": "UP" if state.healthy else "DOWN",
            "action": action,
        }
        if instance is not None:
            said["instanceInfo"] = instance
        self._queue.append((asyncio.get_running_loop().time(), msgspec.json.encode(said)))

    def _answer_cached(self, request: Request, what: str) -> None:
        number, body = self._cached.get(what, (-1, b""))
        if number != (renewal := int(time.monotonic() // CACHED)):
            body = _gzip(self._page(what))
            self._cached[what] = (renewal, body)
        assert "gzip" in request.headers.get("accept-encoding", ""), "who reads all of this should ask for gzip"
        assert request.headers.get("accept") == "application/json", "Eureka would answer with XML"
        request.answer(body, {"Content-Encoding": "gzip"})

    def _page(self, what: str) -> bytes:
        if what == "apps":
            states: Iterable[State] = self._fleet.states()
        else:
            self._version += 1
            earliest = time.monotonic() - RETENTION
            self._recent = {at: since for at, since in self._recent.items() if since >= earliest}
            states = sorted((self._fleet.state(*at) for at in self._recent), key=lambda s: s.service)
        shape = _in_brief if what == "delta in brief" else dict
        # One by one: 50,000 instances as objects would be a gigabyte, for a moment.
        applications = [
            msgspec.Raw(
                msgspec.json.encode(
                    {"name": State(service, 0).name.upper(), "instance": [shape(self._instance(s)) for s in members]}
                )
            )
            for service, members in itertools.groupby(states, key=lambda s: s.service)
        ]
        counts = (("DOWN", self._down), ("UP", len(self._fleet) - self._down))
        page = {
            "versions__delta": str(self._version),
            "apps__hashcode": "".join(f"{status}_{count}_" for status, count in counts if count),
            "application": applications,
        }
        return msgspec.json.encode({"applications": page})

    def _instance(self, state: State) -> dict[str, object]:
        at = (state.service, state.instance)
        home = f"http://{state.address}:{PORT}"
        return {
            "instanceId": state.id,
            "hostName": state.address,
            "app": state.name.upper(),
            "ipAddr": state.address,
            "status": "UP" if state.healthy else "DOWN",
            "overriddenStatus": "UNKNOWN",
            "port": {"$": PORT, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            "countryId": 1,
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": {
                "renewalIntervalInSecs": 30,
                "durationInSecs": 90,
                "registrationTimestamp": BEGAN,
                "lastRenewalTimestamp": BEGAN,
                "evictionTimestamp": 0,
                "serviceUpTimestamp": BEGAN,
            },
            "metadata": {"management.port": str(PORT), "weight": str(state.weight), "zone": "a"},
            "homePageUrl": f"{home}/",
            "statusPageUrl": f"{home}/actuator/info",
            "healthCheckUrl": f"{home}/actuator/health",
            "vipAddress": state.name,
            "secureVipAddress": state.name,
            "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": str(self._dirty.get(at, BEGAN)),
            "lastDirtyTimestamp": str(self._dirty.get(at, BEGAN)),
            "actionType": "MODIFIED" if at in self._dirty else "ADDED",
        }


def _in_brief(instance: dict[str, object]) -> dict[str, object]:
    """What a compact answer has of it."""
    return {name: value for name, value in instance.items() if name not in LEFT_OUT}


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()
