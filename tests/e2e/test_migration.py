"""A service moves from Eureka to Consul under load: compared, shifted by shares, and then taken away where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import (
    Config,
    ConsulRegistry,
    EurekaRegistry,
    ListenConfig,
    MergeConfig,
    MeshConfig,
    XdsConfig,
)
from isthmus.registry.drain import DrainRules
from isthmus.registry.parity import Parity
from tests.servers.consul import Consul
from tests.servers.envoy import Envoy
from tests.servers.eureka import Eureka
from tests.servers.process import free_port
from tests.servers.upstream import Load, Upstream, constant_load, get
from tests.wait import eventually

HOST = "reviews.default.mesh"


class Migration:
    """A bridge between both registries, and four instances: old ones for Eureka, new ones for Consul."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.outbound = free_port()
        self.upstreams = {name: Upstream(name) for name in ("old-1", "old-2", "new-1", "new-2")}

    async def start(self) -> None:
        self.eureka = Eureka(self.directory / "eureka")
        self.stack.callback(self.eureka.stop)
        self.eureka.start()
        self.consul = await Consul.start_dev(self.directory / "consul")
        self.stack.callback(self.consul.stop)
        await self.eureka.ready()
        for upstream in self.upstreams.values():
            await upstream.start()
            self.stack.push_async_callback(upstream.stop)
        self.bridge = Bridge(
            Config(
                registries=(
                    EurekaRegistry(name="eureka", addresses=(self.eureka.address,), poll_interval=0.5),
                    ConsulRegistry(name="consul", address=self.consul.address),
                ),
                mesh=MeshConfig(outbound_port=self.outbound),
                xds=XdsConfig("127.0.0.1:0"),
                http=ListenConfig("127.0.0.1:0"),
                drain=DrainRules(grace=1),
                merge=MergeConfig({"eureka": 100, "consul": 0}),
                state_dir=str(self.directory / "state"),
            )
        )
        self.stack.push_async_callback(self.bridge.stop)
        await self.bridge.start()

    async def in_eureka(self, name: str) -> None:
        metadata = {"port": "80"}
        await self.eureka.register(
            "reviews", name, ipAddr="127.0.0.1", port=self.upstreams[name].port, metadata=metadata
        )

    async def in_consul(self, name: str) -> None:
        await self.consul.register("reviews", name, port=self.upstreams[name].port, meta={"port": "80"})

    async def shift(self, percent: int) -> None:
        """Give Consul's instances a share, as a changed configuration file does."""
        merge = MergeConfig({"eureka": 100 - percent, "consul": percent})
        await self.bridge.reload(msgspec.structs.replace(self.bridge.config, merge=merge))

    async def parity(self) -> Parity:
        url = f"http://{self.bridge.http_address}/debug/parity?first=eureka&second=consul"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return msgspec.json.decode(await answer.read(), type=Parity)


@pytest.fixture
async def migration(tmp_path: Path) -> AsyncIterator[Migration]:
    async with AsyncExitStack() as stack:
        migration = Migration(tmp_path, stack)
        await migration.start()
        yield migration


async def share(load: Load, percent: int) -> None:
    """Wait until the new instances answer that share of a few hundred requests."""

    def holds() -> bool:
        if load.answers.total() < 300:
            return False
        answers = load.recent()
        new = sum(n for name, n in answers.items() if name.startswith("new"))
        return abs(new / answers.total() - percent / 100) < 0.06

    load.recent()
    await eventually(holds, f"{percent} % go to the new instances", 20, every=0.1)


async def test_a_service_moves_from_eureka_to_consul_without_a_failed_request(migration: Migration) -> None:
    for name in ("old-1", "old-2"):
        await migration.in_eureka(name)
    envoy = Envoy(migration.directory, migration.bridge.xds_address)
    envoy.start()
    migration.stack.callback(envoy.stop)
    await envoy.ready()

    async def served() -> bool:
        return (await get(migration.outbound, HOST))[0] == 200

    await eventually(served, "it is served from Eureka")
    async with constant_load(migration.outbound, HOST) as load:
        # The same two instances are registered twice while their owners move: they are one each.
        for name in ("old-1", "old-2"):
            await migration.in_consul(name)

        async def same() -> bool:
            return (await migration.parity()).same == 1

        await eventually(same, "both registries know the same")
        (service,) = migration.bridge.published.catalog.services.values()
        assert len(service.instances) == 2
        # New instances, in Consul alone.
        for name in ("new-1", "new-2"):
            await migration.in_consul(name)
        await eventually(lambda: _count(migration) == 4, "all four are known")
        found = await migration.parity()
        new = {f"127.0.0.1:{migration.upstreams[name].port}" for name in ("new-1", "new-2")}
        assert {d.what for d in found.differences} == new
        await share(load, 0)
        for percent in (10, 50, 100):
            await migration.shift(percent)
            await share(load, percent)
        for name in ("old-1", "old-2"):
            await migration.eureka.cancel("reviews", name)
            await migration.consul.deregister(name)
        await eventually(lambda: _count(migration) == 2, "the old ones are gone", 20)
        await share(load, 100)
    assert load.failures == []


def _count(migration: Migration) -> int:
    return sum(len(s.instances) for s in migration.bridge.published.catalog.services.values())
