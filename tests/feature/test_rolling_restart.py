"""A service is deployed anew, instance by instance, while a thousand proxies are connected, each of which is restarted too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.feature.client import EDS, Client
from tests.feature.conftest import World
from tests.wait import eventually

STREAMS, INSTANCES = 1_000, 10
CLUSTER = "outbound|80||reviews.default.mesh"


class Proxy:
    """One proxy that acknowledges everything. `states` are all the assignments that it was sent, over all of its streams."""

    def __init__(self, world: World, number: int) -> None:
        self.states: list[frozenset[str]] = []
        self._world = world
        self._node = f"envoy-{number}"
        self._versions: Mapping[str, str] = {}
        self._following: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """With what it holds, as an Envoy that has lost its connection."""
        client = Client(self._world.bridge.xds_address, node=self._node)
        await client.subscribe(EDS, [CLUSTER], versions=self._versions)
        self._following = asyncio.create_task(self._follow(client))

    async def disconnect(self) -> None:
        assert self._following is not None
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    @property
    def failed(self) -> bool:
        """Whether a stream has ended by itself."""
        return self._following is not None and self._following.done() and not self._following.cancelled()

    async def _follow(self, client: Client) -> None:
        async with client:
            while True:
                answer = await client.take(EDS)
                self.states.append(frozenset(answer.endpoints(CLUSTER)))
                self._versions = answer.versions


async def test_a_rolling_restart_under_a_thousand_proxies_that_are_restarted_too(world: World) -> None:
    """Each has the last state in the end, saw only states that there were, in their order, and nothing twice."""
    addresses = [f"10.0.0.{n}" for n in range(1, INSTANCES + 1)]
    world.folder.mkdir()
    world.write("reviews", *addresses)
    await world.started()
    proxies = [Proxy(world, n) for n in range(STREAMS)]
    try:
        await asyncio.gather(*(proxy.connect() for proxy in proxies))
        await eventually(lambda: all(p.states for p in proxies), "all have the first state", 60)
        states = [frozenset(f"{a}:80" for a in addresses)]
        for n in range(INSTANCES):
            addresses[n] = f"10.0.1.{n + 1}"
            states.append(frozenset(f"{a}:80" for a in addresses))
            restarted = proxies[n::INSTANCES]
            await asyncio.gather(*(proxy.disconnect() for proxy in restarted))
            world.write("reviews", *addresses)
            # Half of them come back before the change has reached everybody, and half thereafter.
            half = len(restarted) // 2
            await asyncio.gather(*(proxy.connect() for proxy in restarted[:half]))
            others = [p for p in proxies if p not in restarted[half:]]
            await eventually(lambda: all(p.states[-1] == states[-1] for p in others), f"change {n} is everywhere", 60)  # noqa: B023
            await asyncio.gather(*(proxy.connect() for proxy in restarted[half:]))
        await eventually(lambda: all(p.states[-1] == states[-1] for p in proxies), "all have the last state", 60)

        orders = {tuple(states.index(state) for state in p.states) for p in proxies}
        assert all(list(order) == sorted(set(order)) for order in orders), orders
        assert not any(p.failed for p in proxies)
    finally:
        await asyncio.gather(*(proxy.disconnect() for proxy in proxies))
