"""One process: registries, translation and the xDS server, wired together.

registries -> Hub -> Catalog -> translate -> publish -> XdsServer. One task carries every catalog through; whatever comes
meanwhile is in the hub's next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from isthmus.bridge.config import Config, ConsulRegistry, Registry, split_address
from isthmus.bridge.http import application
from isthmus.bridge.metrics import RegistryCollector
from isthmus.bridge.state import StateError, VirtualIPs
from isthmus.registry.adapter import Adapter
from isthmus.registry.consul import ConsulAdapter
from isthmus.registry.file import FileAdapter
from isthmus.registry.hub import Hub
from isthmus.registry.model import Catalog, Conflict, Origin, ServiceKey
from isthmus.registry.origin import OriginStatus
from isthmus.xds.server.grpc_aio import GrpcAioTransport
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.server import XdsServer
from isthmus.xds.store import publish
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate

log = structlog.get_logger()

DRAIN_SECONDS = 2.0
"""How long proxies get to take what is on its way before their streams end."""


class StartError(Exception):
    """The bridge cannot start; one sentence for the operator."""


class Bridge:
    """The bridge of one configuration. `start`, then `stop`; `failed` ends when something inside has crashed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.catalog = Catalog({})
        self.translation_conflicts: tuple[Conflict, ...] = ()
        self.virtual_ips: Mapping[ServiceKey, str] = {}
        self.xds_address = ""
        self.http_address = ""
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Listen, and begin to read the registries. Raises StartError."""
        try:
            await self._start()
        except (StateError, OSError) as e:
            await self.stop()
            raise StartError(str(e)) from e

    async def _start(self) -> None:
        config = self.config
        self._vips = VirtualIPs(Path(config.state_dir), config.mesh.virtual_ips)
        metrics = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=metrics)
        self.hub = Hub(config.guard, config.sync_timeout)
        self._stack.push_async_callback(self.hub.close)
        metrics.register(RegistryCollector(self.hub))
        identifier = f"isthmus {version('isthmus')} on {socket.gethostname()}"
        self.server = XdsServer(GrpcAioTransport(), XdsMetrics(metrics), identifier)
        self.server.start()
        self._stack.push_async_callback(self.server.stop, DRAIN_SECONDS)
        self.http_address = await self._serve_http(config.http.address, metrics)
        self.xds_address = await self.server.listen(config.xds.address)
        for registry in config.registries:
            self._add(registry)
        self._pipeline = asyncio.create_task(self._run(), name="pipeline")
        self._stack.push_async_callback(_cancel, self._pipeline)
        log.info("bridge.started", xds=self.xds_address, http=self.http_address, registries=list(self.hub.statuses))

    async def stop(self) -> None:
        """End everything in the opposite order; proxies are told to come back."""
        await self._stack.aclose()

    async def failed(self) -> None:
        """Wait until the pipeline ends by itself, which it does only by raising."""
        await asyncio.shield(self._pipeline)

    async def reload(self, config: Config) -> None:
        """Take over other registries and mesh settings; what is unchanged goes on untouched.

        Addresses and the state directory cannot change while running: a difference is reported and ignored.
        """
        fixed = {"xds", "http", "state_dir", "mesh", "guard"}
        ignored = sorted(f for f in fixed if getattr(config, f) != getattr(self.config, f))
        if ignored:
            log.warning("bridge.restart_needed", fields=ignored)
        before = {r.name: r for r in self.config.registries}
        after = {r.name: r for r in config.registries}
        for name in before.keys() - after.keys():
            await self.hub.remove(name)
        for name, registry in after.items():
            if name not in before:
                self._add(registry)
            elif registry == before[name]:
                continue
            elif type(registry) is type(before[name]):
                status = self.hub.statuses[name]
                await self.hub.replace(_adapter(registry, status))
            else:
                await self.hub.remove(name)
                self._add(registry)
        if list(before) != list(after):
            self.hub.set_order(list(after))
        self.config = msgspec.structs.replace(self.config, registries=config.registries)
        changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        log.info("bridge.reloaded", registries=list(after), changed=changed)

    def _add(self, registry: Registry) -> None:
        kind = "consul" if isinstance(registry, ConsulRegistry) else "file"
        status = OriginStatus(Origin(registry.name, kind))
        self.hub.add(_adapter(registry, status), status)

    async def _serve_http(self, address: str, metrics: CollectorRegistry) -> str:
        host, port = split_address(address, ["http", "address"])
        runner = web.AppRunner(application(self, metrics), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as e:
            raise StartError(f"http.address {address}: {e.strerror or e}") from None
        real = runner.addresses[0][1]
        return f"{address.rpartition(':')[0]}:{real}"

    async def _run(self) -> None:
        mesh = self.config.mesh
        settings = MeshSettings(mesh.domain, mesh.outbound_address, mesh.outbound_port)
        translation: Translation | None = None
        async for catalog in self.hub.catalogs():
            try:
                self.virtual_ips = await self._vips.assign(catalog)
            except StateError as e:
                # The services that have their address go on; the others get no listener and are named as conflicts.
                log.error("bridge.virtual_ips_failed", error=str(e))
            translation = translate(Mesh(catalog, settings, self.virtual_ips), translation)
            self.catalog = catalog
            self._report(translation.conflicts)
            before = self.server.snapshot
            snapshot = publish(before, translation.resources, translation.changed, catalog.changed_at)
            self.server.update(snapshot)
            if snapshot is not before:
                changed = {t.short: len(names) for t, names in snapshot.log[-1].names.items()}
                log.debug("bridge.published", generation=snapshot.generation, **changed)

    def _report(self, conflicts: tuple[Conflict, ...]) -> None:
        for conflict in set(conflicts) - set(self.translation_conflicts):
            log.warning("mesh.conflict", subject=conflict.subject, kept=conflict.kept, dropped=conflict.dropped)
        self.translation_conflicts = conflicts


def _adapter(registry: Registry, status: OriginStatus) -> Adapter:
    if isinstance(registry, ConsulRegistry):
        return ConsulAdapter(status.origin, registry, status)
    return FileAdapter(status.origin, registry, status)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
