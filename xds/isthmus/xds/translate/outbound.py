"""Listeners of HTTP beside the one for all: at the addresses that names resolve to, and for connections that are redirected.

A name resolves to its service's virtual IP, or to the address that all those without one share. Each HTTP port has a listener
there, which routes on the authority, so one for each port on the shared address is enough for any number of services. Which there
are is counted by place: what one service changes costs what it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.contest import Settlement
from isthmus.xds.translate.listeners import (
    ANY,
    OUTBOUND_CAPTURED,
    OUTBOUND_HTTP,
    VIRTUAL_PORTS,
    listener_name,
    to_address_listener,
    to_captured_listener,
    to_unbound,
)
from isthmus.xds.translate.part import Part
from isthmus.xds.translate.routes import encode_captured_routes
from isthmus.xds.translate.translation import Hosts, Translation

Place = tuple[str, int]
"""An address and a port."""
Listeners = Mapping[str, Resource]


class Places(msgspec.Struct, frozen=True):
    """Where HTTP is to be listened for: what each service wants, and how many want each place."""

    wanted: Mapping[ServiceKey, tuple[Place, ...]] = {}
    counts: Mapping[Place, int] = {}


class Addresses(msgspec.Struct, frozen=True):
    """The listeners at addresses, and all of a proxy that has them; `base` is what they were put to."""

    places: Places
    base: Listeners
    own: Listeners
    listeners: Listeners
    conflicts: tuple[Conflict, ...]


class Captured(msgspec.Struct, frozen=True):
    """All listeners and routes of a proxy that connections are redirected to, and what they were made from."""

    addresses: Addresses
    hosts: Mapping[ServiceKey, Hosts]
    own: Listeners
    at_addresses: Listeners
    listeners: Listeners
    routes: Mapping[str, Resource]
    conflicts: tuple[Conflict, ...]


def to_addresses(
    translation: Translation, before: Addresses | None = None, affected: frozenset[ServiceKey] | None = None
) -> Addresses:
    """Make the listeners at addresses, sharing with `before` what has not changed.

    `affected`, unless None, must name every service that takes part in what differs between the translation of `before` and this
    one: `translation.affected`, if they are neighbours.
    """
    base = translation.resources[TypeUrl.LISTENER]
    places = _to_places(translation, before.places if before else Places(), affected)
    if before is not None and before.places is places and before.base is base:
        return before
    known = before.own if before else {}
    own: dict[str, Resource] = {}
    conflicts: list[Conflict] = []
    for address, port in sorted(places.counts):
        name = listener_name(address, port)
        if name in base:
            conflicts.append(Conflict(f"listener {name}", _owner(translation, name), "HTTP at that address"))
        else:
            own[name] = known.get(name) or Resource.of(TypeUrl.LISTENER, name, to_address_listener(address, port))
    settings = translation.mesh.settings
    one_for_all = listener_name(settings.outbound_address, settings.outbound_port)
    listeners = {**base, **own}
    listeners.pop(one_for_all, None)  # that place is taken, by a listener that does the same
    return Addresses(places, base, own, listeners, tuple(conflicts))


def to_captured(translation: Translation, addresses: Addresses, before: Captured | None = None) -> Captured:
    """Make the listeners and routes of a proxy that connections are redirected to, beside its `addresses`."""
    hosts = translation.progress.hosts
    if before is not None and before.addresses is addresses and before.hosts is hosts:
        return before
    known = before.own if before else {}
    own: dict[str, Resource] = {}
    conflicts = list(addresses.conflicts)
    for port in sorted({port for _, port in addresses.places.counts}):
        name = listener_name(ANY, port)
        if port in VIRTUAL_PORTS:
            kept = "the proxy's own, where connections are redirected to"
            conflicts.append(Conflict(f"listener {name}", kept, f"HTTP that is redirected on its way to port {port}"))
        else:
            own[name] = known.get(name) or Resource.of(TypeUrl.LISTENER, name, to_captured_listener(port))
    at_addresses = _unbound(addresses, before)
    listeners = {**at_addresses, **own}
    if before is not None and before.hosts is hosts:
        routes = before.routes
    else:
        body = encode_captured_routes(hosts[key].encoded for key in translation.progress.settlement.order)
        captured = Resource.of_bytes(TypeUrl.ROUTE, OUTBOUND_CAPTURED, body)
        routes = {**translation.resources[TypeUrl.ROUTE], OUTBOUND_CAPTURED: captured}
    return Captured(addresses, hosts, own, at_addresses, listeners, routes, tuple(conflicts))


def _unbound(addresses: Addresses, before: Captured | None) -> Listeners:
    """The listeners at addresses. Connections to these are redirected too, so that a program may have such a port itself."""
    if before is not None and before.addresses is addresses:
        return before.at_addresses
    bound = _bound(addresses)
    known = _bound(before.addresses) if before else {}
    return {
        name: before.at_addresses[name]
        if before and known.get(name) is listener
        else Resource.of(TypeUrl.LISTENER, name, to_unbound(Listener.FromString(listener.body)))
        for name, listener in bound.items()
    }


def _bound(addresses: Addresses) -> Listeners:
    return {name: listener for name, listener in {**addresses.base, **addresses.own}.items() if name != OUTBOUND_HTTP}


def _to_places(translation: Translation, before: Places, affected: frozenset[ServiceKey] | None) -> Places:
    parts, settlement = translation.progress.parts, translation.progress.settlement
    keys: Iterable[ServiceKey] = before.wanted.keys() | parts.keys() if affected is None else affected
    shared = translation.mesh.settings.shared_address
    differing = {
        key: places
        for key in keys
        if (places := _wanted(key, parts.get(key), settlement, shared)) != before.wanted.get(key, ())
    }
    if not differing:
        return before
    wanted, counts = dict(before.wanted), dict(before.counts)
    for key, places in differing.items():
        for place in wanted.pop(key, ()):
            counts[place] -= 1
        for place in places:
            counts[place] = counts.get(place, 0) + 1
        if places:
            wanted[key] = places
    return Places(wanted, {place: count for place, count in counts.items() if count})


def _wanted(key: ServiceKey, part: Part | None, settlement: Settlement, shared: str) -> tuple[Place, ...]:
    if part is None or key in settlement.left_out:
        return ()
    own = part.frame.virtual_ip
    addresses = (shared,) if own is None or own == shared else (shared, own)
    return tuple((address, port) for address in addresses for port in part.claim.http_ports)


def _owner(translation: Translation, listener: str) -> str:
    """Whose TCP listener it is."""
    progress = translation.progress
    lost = progress.settlement.lost
    return next(
        str(key)
        for key in progress.settlement.order
        if listener in progress.parts[key].claim.listeners and listener not in lost.get(key, ())
    )
