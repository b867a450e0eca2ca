"""Real Eureka servers that die in turn, come back with a part, with nothing, or with 403: through Envoy nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.bridge.config import EurekaRegistry
from tests.fault.served import NOTICED, Served, served
from tests.servers.eureka import Eureka
from tests.wait import eventually

HOST = "web.default.mesh"
WARM_UP = {
    # A server that starts with nothing answers 403 for so long, unless a peer has something: longer than any pause between two
    # attempts of a bridge.
    "eureka.server.wait-time-in-ms-when-sync-empty": "16000",
    "eureka.instance.registry.default-open-for-traffic-count": "0",
}


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[Eureka, Eureka]]:
    """Two that know nothing of each other, as after a partition. The second one is a slow starter when it starts again."""
    first, second = Eureka(tmp_path / "first"), Eureka(tmp_path / "second")
    for server in (first, second):
        server.start()
    try:
        await asyncio.gather(first.ready(), second.ready())
        yield first, second
    finally:
        first.stop()
        second.stop()


async def put(eureka: Eureka, id_: str, port: int) -> None:
    await eureka.register("web", id_, ipAddr="127.0.0.1", port=port, metadata={"port": "80"})


def mk_registry(*servers: Eureka) -> EurekaRegistry:
    addresses = tuple(s.address for s in servers)
    return EurekaRegistry(name="eureka", addresses=addresses, poll_interval=0.2, timeout=1, default_port=80)


async def test_servers_die_in_turn(servers: tuple[Eureka, Eureka], tmp_path: Path) -> None:
    """One dies, and the other knows a part; it dies too; it is back, and refuses; then it has nothing; and is told all again."""
    first, second = servers
    async with served(tmp_path, mk_registry(first, second)) as world:
        ups = {name: (await world.upstream(name)).port for name in ("one", "two", "three")}
        with second.outage():
            for name in ("one", "two"):
                await put(first, name, ups[name])
            await eventually(lambda: world.ports("web") == {ups["one"], ups["two"]}, "both are known", NOTICED)
        await put(second, "one", ups["one"])
        await put(second, "three", ups["three"])
        await world.start_envoy()
        async with world.load(HOST) as load:
            first.kill()
            await eventually(lambda: world.ports("web") == set(ups.values()), "the second one is asked", NOTICED)
            assert held(world) == {"two"}, "not listed by a server that was not seen to remove it"
            load.recent()
            await eventually(lambda: load.answers.keys() == ups.keys(), "all three serve")
            await put(second, "two", ups["two"])
            await eventually(lambda: not held(world), "the second one lists it", NOTICED)

            second.kill()
            both = (first.address, second.address)
            await eventually(lambda: all(a in world.status.error for a in both), "neither answers", NOTICED)
            assert world.status.stale_since is not None
            assert world.ports("web") == set(ups.values())

            second.argv += [f"--{key}={value}" for key, value in WARM_UP.items()]
            second.start()
            await eventually(lambda: "still syncing" in world.status.error, "403 is understood", 90)
            assert world.ports("web") == set(ups.values())
            await world.until_current()
            assert held(world) == ups.keys(), "a server that has just begun knows nobody"
            assert world.ports("web") == set(ups.values())

            async def registered() -> bool:
                """Once is not always enough: a poll in the same moment can leave a server's cache with what was before it."""
                for name in held(world):
                    await put(second, name, ups[name])
                return not held(world)

            await eventually(registered, "all have registered again", NOTICED, every=0.5)
            load.recent()
            await eventually(lambda: load.answers.keys() == ups.keys(), "all three serve")


def held(world: Served) -> set[str]:
    return {hold.instance.id for hold in world.bridge.hub.holds}
