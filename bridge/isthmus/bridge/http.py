"""The HTTP side: is it alive, is it ready, what does it know, what has each proxy got."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from isthmus.bridge.questions import add_questions
from isthmus.bridge.registering import add_workloads
from isthmus.bridge.registries import held, leaving
from isthmus.registry.origin import OriginStatus

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

_json = msgspec.json.Encoder(order="deterministic")


def application(bridge: Bridge, metrics: CollectorRegistry) -> web.Application:
    """The routes of `http.address`."""
    app = web.Application(middlewares=[_tell_what_there_is])

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        state = readiness(bridge)
        return _answer(state, 200 if state["ready"] else 503)

    async def serve_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def catalog(_: web.Request) -> web.Response:
        return _answer(to_catalog_document(bridge))

    async def proxies(_: web.Request) -> web.Response:
        return _answer(bridge.server.proxies())

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", serve_metrics)
    app.router.add_get("/debug/catalog", catalog)
    app.router.add_get("/debug/proxies", proxies)
    add_questions(app, bridge)
    add_workloads(app, bridge)
    return app


def _answer(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=_json.encode(document), content_type="application/json")


@web.middleware
async def _tell_what_there_is(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        if request.match_info.http_exception is None:
            raise  # the route is there, what it was asked for is not
        paths = sorted(r.canonical for r in request.app.router.resources())
        return web.Response(status=404, text=f"no {request.path} here; there are {', '.join(paths)}\n")


def readiness(bridge: Bridge) -> dict[str, object]:
    """Ready when there is something to serve: every registry has listed once, or has had its time to and another one has.

    Once ready it stays so, whatever becomes of the registries, until the bridge stops.
    """
    return {
        "ready": bridge.server.snapshot.generation > 0 and not bridge.stopping,
        "waiting_for": bridge.hub.unsynced,
        "registries": registries(bridge),
    }


def registries(bridge: Bridge) -> dict[str, object]:
    """How each registry is doing, in order of precedence. Times are seconds since the epoch."""
    return {name: _origin_state(s) for name, s in bridge.hub.statuses.items()}


def _origin_state(status: OriginStatus) -> dict[str, object]:
    return {
        "kind": status.origin.kind,
        "synced": status.synced,
        "last_success": status.last_success,
        "stale_since": status.stale_since,
        "stale_for_s": None if status.stale_since is None else round(time.time() - status.stale_since, 1),
        "error": status.error,
        "doubt": status.doubt,
        "cursor": status.cursor,
    }


def to_catalog_document(bridge: Bridge) -> dict[str, object]:
    """Everything that is known, with where it came from and what was left out."""
    catalog, hub = bridge.published.catalog, bridge.hub
    return {
        "services": [service for _, service in sorted(catalog.services.items())],
        "conflicts": bridge.published.conflicts,
        # From the origins, for a catalog is made when services change, and a file may break without any doing so.
        "quarantined": sorted({q for status in hub.statuses.values() for q in status.quarantined}),
        "holds": held(hub),
        "leaving": leaving(hub),
        "registries": registries(bridge),
        "virtual_ips": {str(k): v for k, v in sorted(bridge.published.virtual_ips.items())},
    }
