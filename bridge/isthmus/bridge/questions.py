"""The HTTP side's answers to operators: how is each registry, what differs, what is doubtful, why gets that one no requests."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from isthmus.bridge.answers import Released
from isthmus.bridge.config import ConsulRegistry, NomadRegistry
from isthmus.bridge.doctor import examine_bridge
from isthmus.bridge.registries import held, registry_states
from isthmus.bridge.walk import Endpoint, walk
from isthmus.registry.model import ServiceKey
from isthmus.registry.parity import parity

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

_json = msgspec.json.Encoder(order="deterministic")


def add_questions(app: web.Application, bridge: Bridge) -> None:
    """Add the routes. What cannot be answered is `{"error": sentence}`: 400 asked wrongly, 404 not there, 409 not so."""

    async def registries(_: web.Request) -> web.Response:
        limited = (r for r in bridge.config.registries if isinstance(r, ConsulRegistry | NomadRegistry))
        limits = {r.name: r.max_connections for r in limited}
        return _answer(registry_states(bridge.hub, limits))

    async def holds(_: web.Request) -> web.Response:
        return _answer(held(bridge.hub))

    async def release(request: web.Request) -> web.Response:
        name = _parameter(request, "service")
        keys = sorted({h.key for h in bridge.hub.holds})
        named = [k for k in keys if name in (k.name, str(k))]
        if not named:
            others = f"held are instances of {', '.join(map(str, keys))}" if keys else "nothing is"
            raise _no(404, f"nothing is held of {name}; {others}")
        key = _only(name, named)
        return _answer(Released(str(key), await bridge.hub.release(frozenset({key}))))

    async def compare(request: web.Request) -> web.Response:
        snapshots = []
        for parameter in ("first", "second"):
            name = _parameter(request, parameter)
            source = bridge.hub.sources.get(name)
            if source is None:
                raise _no(404, f"no registry {name}; there are {', '.join(bridge.hub.sources)}")
            if source.listed is None:
                reason = source.status.error or "the first listing is under way"
                raise _no(409, f"registry {name} has not been listed yet: {reason}")
            snapshots.append(source.listed)
        return _answer(parity(*snapshots))

    async def doctor(_: web.Request) -> web.Response:
        return _answer(examine_bridge(bridge))

    async def explain(request: web.Request) -> web.Response:
        key = _service(bridge, _parameter(request, "service"))
        return _answer(walk(bridge, key, _endpoint(_parameter(request, "endpoint"))))

    app.router.add_get("/debug/registries", registries)
    app.router.add_get("/debug/holds", holds)
    app.router.add_post("/holds/release", release)
    app.router.add_get("/debug/parity", compare)
    app.router.add_get("/debug/doctor", doctor)
    app.router.add_get("/debug/explain", explain)


def _service(bridge: Bridge, name: str) -> ServiceKey:
    """The key that a name, or `name.namespace`, stands for; also of a service that nobody lists."""
    known = {k for s in bridge.hub.sources.values() if s.shown for k in s.shown.services}
    named = sorted(k for k in known if name in (k.name, str(k)))
    if named:
        return _only(name, named)
    bare, _, namespace = name.rpartition(".")
    return ServiceKey(namespace, bare) if bare else ServiceKey("default", name)


def _only(name: str, named: list[ServiceKey]) -> ServiceKey:
    if len(named) > 1:
        raise _no(409, f"{name} is in several namespaces; say which: {', '.join(map(str, named))}")
    return named[0]


def _endpoint(text: str) -> Endpoint:
    if text.startswith("unix:"):
        return Endpoint(text, 0)
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _no(400, f"endpoint {text!r}: expected ADDRESS:PORT, [IPv6]:PORT or unix:///path")
    try:
        return Endpoint(str(ipaddress.ip_address(host.strip("[]"))), int(port))
    except ValueError:
        return Endpoint(host, int(port))


def _parameter(request: web.Request, name: str) -> str:
    value = request.query.get(name, "")
    if not value:
        raise _no(400, f"{request.path} needs the parameter {name}")
    return value


def _answer(document: object) -> web.Response:
    return web.Response(body=_json.encode(document), content_type="application/json")


def _no(status: int, text: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {400: web.HTTPBadRequest, 404: web.HTTPNotFound, 409: web.HTTPConflict}
    return kinds[status](text=_json.encode({"error": text}).decode(), content_type="application/json")
