"""A mesh of real parts: Consul, the bridge in this process, Envoy, and services that say who answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, ConsulRegistry, ListenConfig, MeshConfig, XdsConfig
from isthmus.registry.guard import GuardRules
from tests.e2e.scripted import Scripted
from tests.e2e.translated import Translated
from tests.servers.consul import Consul
from tests.servers.envoy import LATEST, Envoy
from tests.servers.process import free_port
from tests.servers.upstream import Upstream, get
from tests.wait import eventually


class Mesh:
    """Consul, bridge and Envoy, and what a test does with them."""

    def __init__(self, directory: Path, consul: Consul, config: Config, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.consul = consul
        self.config = config
        self.outbound = config.mesh.outbound_port
        self.bridge = Bridge(config)
        self.envoys: list[Envoy] = []
        self._stack = stack

    async def start_bridge(self) -> None:
        """Start it, at the same addresses when it was started before."""
        await self.bridge.start()
        xds, http = XdsConfig(self.bridge.xds_address), ListenConfig(self.bridge.http_address)
        self.config = msgspec.structs.replace(self.config, xds=xds, http=http)

    async def restart_bridge(self) -> None:
        await self.bridge.stop()
        self.bridge = Bridge(self.config)
        await self.start_bridge()

    async def start_envoy(self, version: str = LATEST, *, delta: bool = True) -> Envoy:
        envoy = Envoy(self.directory, self.bridge.xds_address, version, node=f"envoy-{len(self.envoys)}", delta=delta)
        envoy.start()
        self._stack.callback(envoy.stop)
        await envoy.ready()
        self.envoys.append(envoy)
        return envoy

    async def upstream(self, name: str) -> Upstream:
        upstream = Upstream(name)
        await upstream.start()
        self._stack.push_async_callback(upstream.stop)
        return upstream

    async def get(self, host: str) -> tuple[int, str]:
        return await get(self.outbound, host)

    async def routed(self, host: str) -> None:
        """Wait until Envoy has a healthy endpoint for a host."""

        async def answered() -> bool:
            return (await self.get(host))[0] == 200

        await eventually(answered, f"{host} is served through Envoy")

    def followed(self, generation: int) -> bool:
        """Whether something newer than a generation has been published and acknowledged by every proxy."""
        return self.bridge.server.snapshot.generation > generation and self.synced()

    def synced(self) -> bool:
        """Whether every proxy has acknowledged all that there is."""
        return all(t.state == "SYNCED" for p in self.bridge.server.proxies() for t in p.types)


async def make_mesh(directory: Path, stack: AsyncExitStack) -> Mesh:
    """Consul and the bridge, running."""
    consul = await Consul.start_dev(directory / "consul")
    stack.callback(consul.stop)
    config = Config(
        registries=(ConsulRegistry(name="consul", address=consul.address, heartbeat=1.0),),
        mesh=MeshConfig(outbound_port=free_port()),
        xds=XdsConfig("127.0.0.1:0"),
        http=ListenConfig("127.0.0.1:0"),
        guard=GuardRules(hold=30),
        state_dir=str(directory / "state"),
    )
    mesh = Mesh(directory, consul, config, stack)
    await mesh.start_bridge()
    stack.push_async_callback(lambda: mesh.bridge.stop())  # noqa: PLW0108 - a restart replaces it
    return mesh


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """Consul and the bridge; a test starts the Envoys it wants."""
    async with AsyncExitStack() as stack:
        yield await make_mesh(tmp_path, stack)


@pytest.fixture
async def xds(tmp_path: Path) -> AsyncIterator[Scripted]:
    """An xDS server without a bridge, that listens and has published nothing."""
    async with AsyncExitStack() as stack:
        scripted = Scripted(tmp_path, stack)
        await scripted.start()
        yield scripted


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Translated]:
    """An xDS server without a bridge, that serves what is made of the services which a test puts there."""
    async with AsyncExitStack() as stack:
        translated = Translated(tmp_path, stack)
        await translated.start()
        yield translated


@pytest.fixture
async def upstreams() -> AsyncIterator[tuple[Upstream, Upstream]]:
    """Services named `one` and `two`."""
    async with AsyncExitStack() as stack:
        pair = Upstream("one"), Upstream("two")
        for upstream in pair:
            await upstream.start()
            stack.push_async_callback(upstream.stop)
        yield pair
