"""One process: registries, translation and the xDS server, wired together.

registries -> Hub -> Catalog -> Publisher -> XdsServer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector

from isthmus.bridge.adapters import to_adapter, to_status
from isthmus.bridge.config import Config, Registry, TLSListenConfig, WorkloadsRegistry
from isthmus.bridge.http import application
from isthmus.bridge.metrics import RegistryCollector, StoreCollector
from isthmus.bridge.preflight import PreflightError, preflight
from isthmus.bridge.publishing import Publisher
from isthmus.bridge.registrations import Registrations, replica_name
from isthmus.bridge.state import StateError, VirtualIPs
from isthmus.registry import vip
from isthmus.registry.hub import Hub
from isthmus.registry.kv.config import DirectoryStoreConfig
from isthmus.registry.kv.edge import StoreError
from isthmus.registry.kv.measured import MeasuredStore
from isthmus.registry.kv.opened import open_store
from isthmus.registry.settings import split_address
from isthmus.registry.source import SourceRules
from isthmus.xds.server.certificates import CertificateError, Certificates
from isthmus.xds.server.grpc_aio import GrpcAioTransport
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.server import XdsServer
from isthmus.xds.translate import MeshSettings

log = structlog.get_logger()

DRAIN_SECONDS = 2.0
"""How long proxies get to take what is on its way before their streams end."""


class StartError(Exception):
    """The bridge cannot start, or not with that configuration; one sentence for the operator."""


class Bridge:
    """The bridge of one configuration. `start`, then `stop`; `failed` ends when something inside has crashed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.xds_address = ""
        self.xds_tls_address = ""
        self.http_address = ""
        self.stopping = False
        self.registrations: Registrations | None = None
        """What registers here; None where no registry is configured for it."""
        self._registering: asyncio.Task[None] | None = None
        self._crashed: asyncio.Future[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Listen, and begin to read the registries. Raises StartError."""
        self._crashed = asyncio.get_running_loop().create_future()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        await _look_ahead(config)
        await self._open_store()
        metrics = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=metrics)
        rules = SourceRules(config.guard, config.drain, config.audit)
        self.hub = Hub(rules, config.sync_timeout, Path(config.state_dir))
        self._stack.push_async_callback(self.hub.close)
        metrics.register(RegistryCollector(self.hub))
        metrics.register(StoreCollector(self.store, self.vips))
        release = version("isthmus")
        Info("isthmus", "The bridge that answers.", registry=metrics).info({"version": release})
        limits = config.xds.limits
        self.server = XdsServer(
            # Up to twice as much is read, so that the client is told which setting refuses it.
            GrpcAioTransport(max_message=2 * limits.message_bytes),
            XdsMetrics(metrics),
            f"isthmus {release} on {socket.gethostname()}",
            limits,
            config.xds.load_interval,
        )
        self.server.start()
        mesh = config.mesh
        outbound = vip.shared_address(mesh.virtual_ips)
        settings = MeshSettings(mesh.domain, mesh.outbound_address, mesh.outbound_port, outbound)
        self.published = Publisher(self.hub, self.vips, self.server, settings)
        self.http_address = await self._serve_http(config.http.address, metrics)
        self._stack.push_async_callback(self.server.stop, DRAIN_SECONDS)
        try:
            self.xds_address = await self.server.listen(config.xds.address)
        except OSError as e:
            raise StartError(f"xds.address {config.xds.address}: {e.strerror or e}") from None
        if config.xds.tls is not None:
            self.xds_tls_address = await self._listen_with_tls(config.xds.tls)
        for registry in config.registries:
            self._add(registry)
        self.hub.prefer([r.name for r in config.registries], config.merge_rules)
        tasks = (
            self._spawn(self.published.run(), "pipeline"),
            self._spawn(self.published.make_wanted(), "views"),
            self._spawn(self.vips.run(), "addresses"),
            self._spawn(self.published.add_late_addresses(), "late addresses"),
        )
        self._stack.push_async_callback(_cancel, *tasks)
        self._stack.push_async_callback(self._stop_registering)
        await self._register_or_not(config)
        log.info(
            "bridge.started",
            xds=self.xds_address,
            xds_tls=self.xds_tls_address,
            http=self.http_address,
            registries=list(self.hub.statuses),
        )

    async def stop(self) -> None:
        """End everything in the opposite order; proxies are told to come back, and the HTTP side says so to the last."""
        self.stopping = True
        await self._stack.aclose()
        if self._crashed is not None:
            self._crashed.cancel()

    async def failed(self) -> None:
        """Wait until something ends by itself, which it does only by raising. Cancelled when the bridge is stopped."""
        if self._crashed is None:
            raise RuntimeError("start() comes before failed()")
        await asyncio.shield(self._crashed)

    async def reload(self, config: Config) -> None:
        """Take over other registries; what is unchanged goes on untouched.

        A registry whose settings differ keeps what it said last until it has listed anew. One that is gone stays until those
        that are new have listed, or have had `sync_timeout`: it may be the same one under another name. What cannot change
        while running (addresses, the mesh's settings, ...) is reported and left as it is.

        Raises:
            StartError: something that the configuration refers to cannot be used. Nothing has changed.

        """
        await _look_ahead(config)
        ignored = [f for f in _FIXED if getattr(config, f) != getattr(self.config, f)]
        if ignored:
            log.warning("bridge.restart_needed", fields=ignored)
        before = {r.name: r for r in self.config.registries}
        after = {r.name: r for r in config.registries}
        changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        for name in changed:
            if name in before and name in after:
                same_kind = type(before[name]) is type(after[name])
                status = self.hub.statuses[name] if same_kind else to_status(after[name], self.store)
                status.address = to_status(after[name], self.store).address
                await self.hub.replace(to_adapter(after[name], status, self.store), status)
            elif name in after:
                self._add(after[name])
        new, gone = after.keys() - before.keys(), before.keys() - after.keys()
        if new and gone:
            log.info("bridge.reload_waits", until_listed=sorted(new), before_removing=sorted(gone))
            await self.hub.wait_synced(new, config.sync_timeout)
        for name in gone:
            await self.hub.remove(name)
        if (list(before), self.config.merge_rules) != (list(after), config.merge_rules):
            self.hub.prefer(list(after), config.merge_rules)
        taken_over = {f: getattr(config, f) for f in ("registries", "merge", "doubt", "sync_timeout")}
        self.config = msgspec.structs.replace(self.config, **taken_over)
        await self._register_or_not(config)
        log.info("bridge.reloaded", registries=list(after), changed=changed)

    def _add(self, registry: Registry) -> None:
        status = to_status(registry, self.store)
        self.hub.add(to_adapter(registry, status, self.store), status)

    async def _open_store(self) -> None:
        config, directory = self.config, Path(self.config.state_dir)
        try:
            self.store = MeasuredStore(open_store(config.store, directory))
            self._stack.push_async_callback(self.store.close)
            own = isinstance(config.store, DirectoryStoreConfig)
            self.vips = VirtualIPs(self.store, config.mesh.virtual_ips, None if own else directory)
            await self.vips.load()
        except (StateError, StoreError) as e:
            raise StartError(str(e)) from None

    async def _register_or_not(self, config: Config) -> None:
        """Take registrations, or no longer, as there is a registry for them."""
        if not any(isinstance(registry, WorkloadsRegistry) for registry in config.registries):
            await self._stop_registering()
        elif self.registrations is None:
            name = replica_name(socket.gethostname(), self.http_address)
            self.registrations = Registrations(self.store, name, self.config.guard)
            self._registering = self._spawn(self.registrations.run(), "registrations")

    async def _stop_registering(self) -> None:
        self.registrations = None
        if self._registering is not None:
            await _cancel(self._registering)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """A task whose failure is this bridge's."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._crashed is not None and not self._crashed.done():
            self._crashed.set_exception(error)

    async def _listen_with_tls(self, tls: TLSListenConfig) -> str:
        certificates = Certificates(tls.cert_file, tls.key_file, tls.ca_file)
        try:
            return await self.server.listen(tls.address, certificates.latest)
        except CertificateError as e:
            raise StartError(f"xds.tls: {e}") from None
        except OSError as e:
            raise StartError(f"xds.tls.address {tls.address}: {e.strerror or e}") from None

    async def _serve_http(self, address: str, metrics: CollectorRegistry) -> str:
        host, port = split_address(address, ["http", "address"])
        runner = web.AppRunner(application(self, metrics), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as e:
            raise StartError(f"http.address {address}: {_reason(e)}") from None
        real = runner.addresses[0][1]
        return f"{address.rpartition(':')[0]}:{real}"


_FIXED = ("audit", "drain", "guard", "http", "mesh", "state_dir", "store", "xds")
"""Fields of the configuration that need a restart."""


async def _look_ahead(config: Config) -> None:
    try:
        remarks = await asyncio.to_thread(preflight, config)
    except PreflightError as e:
        raise StartError(str(e)) from None
    for remark in remarks:
        log.warning("bridge.remark", remark=remark)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reason(error: OSError) -> str:
    """asyncio repeats the address in its own text; the system's words for the number are enough."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
