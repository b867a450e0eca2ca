"""A whole bridge in this process, around the registry to which something happens, and as many Envoys as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, ListenConfig, MeshConfig, Registry, XdsConfig
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from isthmus.registry.model import Health, ServiceKey
from isthmus.registry.origin import OriginStatus
from tests.servers.envoy import Envoy
from tests.servers.process import free_port
from tests.servers.upstream import Load, Upstream, constant_load, get
from tests.wait import eventually

NOTICED, RECOVERED = 30.0, 60.0
"""Seconds within which everything is noticed, and is over when its cause is: longer than any pause between attempts."""


class Served:
    """The bridge of one registry."""

    def __init__(self, directory: Path, config: Config, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.config = config
        self.bridge = Bridge(config)
        self._envoys = 0
        self._stack = stack
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the bridge, at the same addresses as the one before it."""
        self.bridge = Bridge(self.config)
        await self.bridge.start()
        self._running = asyncio.create_task(self.bridge.failed())
        xds, http = XdsConfig(self.bridge.xds_address), ListenConfig(self.bridge.http_address)
        self.config = msgspec.structs.replace(self.config, xds=xds, http=http)

    async def stop(self) -> None:
        """End the bridge, which has not crashed until now."""
        running, self._running = self._running, None
        if running is not None:
            crashed = running.done()
            running.cancel()
            await self.bridge.stop()
            await asyncio.gather(running, return_exceptions=True)
            assert not crashed, "the bridge has crashed"

    async def start_envoy(self) -> Envoy:
        """Start one and wait until it is live."""
        self._envoys += 1
        envoy = Envoy(self.directory, self.bridge.xds_address, node=f"envoy-{self._envoys}")
        envoy.start()
        self._stack.callback(envoy.stop)
        await envoy.ready()
        return envoy

    async def upstream(self, name: str) -> Upstream:
        """A service that lives for as long as the test."""
        upstream = Upstream(name)
        await upstream.start()
        self._stack.push_async_callback(upstream.stop)
        return upstream

    @contextlib.asynccontextmanager
    async def load(self, host: str) -> AsyncIterator[Load]:
        """Requests through Envoy while the block runs, not one of which may fail."""
        port = self.config.mesh.outbound_port

        async def answers() -> bool:
            return (await get(port, host))[0] == 200

        await eventually(answers, f"{host} is served through Envoy", NOTICED)
        async with constant_load(port, host, 1) as load:
            yield load
            load.recent()
            await eventually(lambda: load.answers, "requests go on")
        assert load.failures == []

    @property
    def status(self) -> OriginStatus:
        (status,) = self.bridge.hub.statuses.values()
        return status

    @property
    def held(self) -> set[str]:
        """Addresses of instances that are served although the registry does not list them."""
        return {hold.instance.address for hold in self.bridge.hub.holds}

    def healths(self, service: str) -> Mapping[str, Health]:
        """Address to health, of a service in the catalog."""
        found = self.bridge.published.catalog.services.get(ServiceKey("default", service))
        return {i.address: i.health for i in found.instances} if found else {}

    def ports(self, service: str) -> set[int]:
        """The ports of its healthy instances, where all have one address."""
        found = self.bridge.published.catalog.services.get(ServiceKey("default", service))
        return {p for i in found.instances if i.health is Health.HEALTHY for p in i.ports.values()} if found else set()

    async def until_stale(self, *words: str) -> str:
        """Wait until the registry is reported stale, in words that say what happened; returns them."""
        await eventually(lambda: self.status.stale_since is not None, "it is reported stale", NOTICED)
        if words:
            await eventually(lambda: any(w in self.status.error for w in words), f"it says {words}", NOTICED)
        return self.status.error

    async def until_current(self) -> None:
        """Wait until the registry is read again."""
        await eventually(
            lambda: self.status.synced and self.status.stale_since is None, "it is current again", RECOVERED
        )


@contextlib.asynccontextmanager
async def served(
    directory: Path, registry: Registry, *, hold: float = 120, sync_timeout: float = 10
) -> AsyncIterator[Served]:
    """A bridge under way. What leaves the registry and is believed to have gone, is gone at once."""
    config = Config(
        registries=(registry,),
        mesh=MeshConfig(outbound_port=free_port()),
        xds=XdsConfig("127.0.0.1:0"),
        http=ListenConfig("127.0.0.1:0"),
        guard=GuardRules(hold=hold),
        drain=DrainRules(grace=0),
        audit=0,
        sync_timeout=sync_timeout,
        state_dir=str(directory / "state"),
    )
    async with AsyncExitStack() as stack:
        world = Served(directory, config, stack)
        stack.push_async_callback(world.stop)
        await world.start()
        yield world
