"""The HTTP side: is it alive, is it ready, what does it know, what has each proxy got."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from isthmus.registry.model import Catalog
from isthmus.registry.origin import OriginStatus

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

_json = msgspec.json.Encoder(order="deterministic")


def application(bridge: Bridge, metrics: CollectorRegistry) -> web.Application:
    """The routes of `http.address`."""
    app = web.Application(middlewares=[_method_not_allowed])

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        state = readiness(bridge)
        return web.Response(
            status=200 if state["ready"] else 503, body=_json.encode(state), content_type="application/json"
        )

    async def serve_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def catalog(_: web.Request) -> web.Response:
        return web.Response(body=_json.encode(to_catalog_document(bridge)), content_type="application/json")

    async def proxies(_: web.Request) -> web.Response:
        return web.Response(body=_json.encode(bridge.server.proxies()), content_type="application/json")

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", serve_metrics)
    app.router.add_get("/debug/catalog", catalog)
    app.router.add_get("/debug/proxies", proxies)
    return app


@web.middleware
async def _method_not_allowed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        paths = sorted(r.canonical for r in request.app.router.resources())
        return web.Response(status=404, text=f"no {request.path} here; there are {', '.join(paths)}\n")


def readiness(bridge: Bridge) -> dict[str, object]:
    """Ready when there is something to serve: every registry has listed once, or has had its time to."""
    hub = bridge.hub
    registries = {name: _origin_state(s) for name, s in hub.statuses.items()}
    return {
        "ready": bridge.server.snapshot.generation > 0,
        "waiting_for": hub.unsynced,
        "registries": registries,
    }


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
    catalog: Catalog = bridge.catalog
    now = time.monotonic()
    return {
        "services": [service for _, service in sorted(catalog.services.items())],
        "conflicts": [*catalog.conflicts, *bridge.translation_conflicts],
        "quarantined": catalog.quarantined,
        "holds": [
            {
                "service": str(h.key),
                "instance": h.instance.id,
                "reason": h.reason,
                "held_for_s": round(now - h.since, 1),
                "ends_in_s": None if h.until is None else round(h.until - now, 1),
            }
            for h in bridge.hub.holds
        ],
        "registries": {name: _origin_state(s) for name, s in bridge.hub.statuses.items()},
        "virtual_ips": {str(k): v for k, v in sorted(bridge.virtual_ips.items())},
    }
