"""The HTTP side's answers to questions of operators: why is this endpoint not used, what differs, what is doubtful, let it go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from isthmus.bridge.walk import walk
from isthmus.registry.doubt import examine
from isthmus.registry.model import ServiceKey
from isthmus.registry.parity import parity

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

_json = msgspec.json.Encoder(order="deterministic")


def add_questions(app: web.Application, bridge: Bridge) -> None:
    """Add the routes. What is asked wrongly is answered 400, what is not there 404, with a sentence."""

    async def explain(request: web.Request) -> web.Response:
        key = _service(bridge, _parameter(request, "service"))
        address, port = _endpoint(_parameter(request, "endpoint"))
        return _answer(walk(bridge, key, address, port))

    async def compare(request: web.Request) -> web.Response:
        snapshots = []
        for parameter in ("first", "second"):
            name = _parameter(request, parameter)
            source = bridge.hub.sources.get(name)
            if source is None:
                raise _no(404, f"no registry {name}; there are {', '.join(bridge.hub.sources)}")
            if source.shown is None:
                raise _no(409, f"registry {name} has not been listed yet: {source.status.error or 'wait a moment'}")
            snapshots.append(source.shown)
        return _answer(parity(*snapshots))

    async def doctor(_: web.Request) -> web.Response:
        quarantined = (q for status in bridge.hub.statuses.values() for q in status.quarantined)
        catalog = msgspec.structs.replace(bridge.catalog, conflicts=bridge.conflicts)
        return _answer(examine(catalog, quarantined))

    async def release(request: web.Request) -> web.Response:
        name = _parameter(request, "service")
        keys = frozenset(h.key for h in bridge.hub.holds if name in (h.key.name, str(h.key)))
        if not keys:
            held = sorted({str(h.key) for h in bridge.hub.holds})
            raise _no(404, f"nothing is held of {name}; held are instances of {', '.join(held) or 'no service'}")
        return _answer({"released": bridge.hub.release(keys)})

    app.router.add_get("/debug/explain", explain)
    app.router.add_get("/debug/parity", compare)
    app.router.add_get("/debug/doctor", doctor)
    app.router.add_post("/holds/release", release)


def _service(bridge: Bridge, name: str) -> ServiceKey:
    """The key that a name, or `name.namespace`, stands for; also of a service that nobody lists."""
    known = {k for s in bridge.hub.sources.values() if s.shown for k in s.shown.services}
    named = sorted(k for k in known if name in (k.name, str(k)))
    if len(named) > 1:
        raise _no(409, f"{name} is in several namespaces; say which: {', '.join(map(str, named))}")
    if named:
        return named[0]
    bare, _, namespace = name.rpartition(".")
    return ServiceKey(namespace, bare) if bare else ServiceKey("default", name)


def _endpoint(text: str) -> tuple[str, int]:
    if text.startswith("unix:"):
        return text, 0
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise _no(400, f"endpoint {text!r}: expected ADDRESS:PORT, [IPv6]:PORT or unix:///path")
    return host.strip("[]"), int(port)


def _parameter(request: web.Request, name: str) -> str:
    value = request.query.get(name, "")
    if not value:
        raise _no(400, f"{request.path} needs the parameter {name}")
    return value


def _answer(document: object) -> web.Response:
    return web.Response(body=_json.encode(document), content_type="application/json")


def _no(status: int, text: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {400: web.HTTPBadRequest, 404: web.HTTPNotFound, 409: web.HTTPConflict}
    return kinds[status](text=text + "\n")
