"""What the registries know, on its way to the proxies: catalog -> translate -> views -> XdsServer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec
import structlog

from isthmus.bridge.state import VirtualIPs
from isthmus.registry.hub import Hub
from isthmus.registry.model import Catalog, Conflict, Service, ServiceKey
from isthmus.registry.thread import in_thread, is_large
from isthmus.xds.group import ProxyGroup
from isthmus.xds.server.server import XdsServer
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate
from isthmus.xds.translate.views import Views

log = structlog.get_logger()

FAN_OUT_SECONDS = 1.0
"""How long a change waits for the one before it to be on its way to all proxies."""
LET_GO = 500
"""Parts of a translation that are let go of before the loop sees to something else."""


class Publisher:
    """Carries every catalog of the hub to the server. What comes while it carries one is in the hub's next one.

    `catalog`, `virtual_ips` and `views` are what the proxies are being told.
    """

    def __init__(self, hub: Hub, vips: VirtualIPs, server: XdsServer, settings: MeshSettings) -> None:
        self.catalog = Catalog({})
        self.virtual_ips: Mapping[ServiceKey, str] = {}
        self.views: Views | None = None
        self._hub = hub
        self._vips = vips
        self._server = server
        self._settings = settings
        self._translation: Translation | None = None
        self._conflicts: tuple[Conflict, ...] = ()
        self._reported: frozenset[Conflict] = frozenset()
        self._publishing = asyncio.Lock()
        """Held while views are made from those before."""

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Claims that cannot all hold: of registries, of services, and with what gRPC clients take, if there are any."""
        return (*self._conflicts, *(self.views.conflicts if self.views else ()))

    async def run(self) -> None:
        """Carry them, for ever."""
        async for catalog in self._hub.catalogs():
            self._vips.take(catalog)
            await self._vips.settle()
            async with self._publishing:
                before, self._translation = self._translation, await self._publish(catalog, self._translation)
            # What comes while proxies are still being told is told in one piece.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAN_OUT_SECONDS):
                    await self._server.fanned_out()
            # The end of thousands of parts takes long, too: a few at a time.
            parts = list(before.progress.parts.values()) if before else []
            del before
            while parts:
                del parts[-LET_GO:]
                await asyncio.sleep(0)

    async def _publish(self, catalog: Catalog, before: Translation | None) -> Translation:
        self.virtual_ips = self._vips.assigned
        mesh = Mesh(catalog, self._settings, self.virtual_ips)
        step = partial(_make, mesh, before, self.views, self._server.groups)
        translation, views = await in_thread(step) if _is_large(catalog, self.catalog) else step()
        self.catalog = catalog
        previous, self.views = self.views, views
        self._server.update(views)
        self._conflicts = (*catalog.conflicts, *translation.conflicts)
        self._report()
        if previous is None or views.envoy is not previous.envoy:
            changed = {t.short: len(names) for t, names in views.envoy.log[-1].names.items()}
            log.debug("bridge.published", generation=views.envoy.generation, **changed)
        return translation

    async def add_late_addresses(self) -> None:
        """Publish again when services have got an address that were published without one."""
        while True:
            await self._vips.changed.wait()
            self._vips.changed.clear()
            async with self._publishing:
                if self._translation is not None and self.virtual_ips is not self._vips.assigned:
                    same = msgspec.structs.replace(self.catalog, changed=frozenset(), changed_at=None)
                    self._translation = await self._publish(same, self._translation)

    async def make_wanted(self) -> None:
        """Make the views that nobody asked for before."""
        while True:
            await self._server.wanted()
            async with self._publishing:
                if self.views is not None:
                    for group in self._server.groups:
                        await in_thread(self.views.make, group)
                    self._server.update(self.views)
                    self._report()

    def _report(self) -> None:
        conflicts = frozenset(self.conflicts)
        for conflict in sorted(conflicts - self._reported):
            log.warning("mesh.conflict", subject=conflict.subject, kept=conflict.kept, dropped=conflict.dropped)
        self._reported = conflicts


def _make(
    mesh: Mesh, translation: Translation | None, views: Views | None, groups: Iterable[ProxyGroup]
) -> tuple[Translation, Views]:
    """What follows from a mesh. A view that was made before is made again for the groups that still have proxies."""
    after = translate(mesh, translation)
    changed_at = mesh.catalog.changed_at
    if views is None:
        return after, Views(after, changed_at)
    following = views.next(after, changed_at)
    for group in groups:
        if views.get(group) is not None:
            following.make(group)
    return after, following


def _is_large(catalog: Catalog, before: Catalog) -> bool:
    """Whether it takes a while to translate this: much has changed, or, where there is much, what services are called."""
    if is_large(catalog.changed, catalog.services, before.services):
        return True
    changed = catalog.changed or ()
    renamed = any(_names(catalog.services.get(key)) != _names(before.services.get(key)) for key in changed)
    return renamed and is_large(None, catalog.services)


def _names(service: Service | None) -> object:
    return service and (service.ports, service.hostnames)
