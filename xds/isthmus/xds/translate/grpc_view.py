"""The mesh as gRPC clients and servers see it, who follow its configuration themselves: what Envoy is told, in their terms.

The names are those that an Envoy of the mesh routes by, and each belongs to the same service. What has not changed since the view
before is shared with it, and what gRPC takes as Envoy does is Envoy's own resource. A change of instances ends at the endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Conflict, Port, Service, ServiceKey
from isthmus.xds import names
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.apply import NOTHING, ByType, apply
from isthmus.xds.translate.grpc_endpoints import to_grpc_cluster
from isthmus.xds.translate.grpc_listeners import encode_api_listener, to_client_listener
from isthmus.xds.translate.part import Claim, Part, ports_of
from isthmus.xds.translate.translation import Translation


class Called(msgspec.Struct, frozen=True, gc=False):
    """The names by which a service is called, and what they were made from: `fallback` is the port that needs no number."""

    claim: Claim
    lost: frozenset[str]
    fallback: int | None
    listeners: tuple[Resource, ...]


class GrpcPart(msgspec.Struct, frozen=True, gc=False):
    """What one service contributes, and what that was made from."""

    part: Part
    called: Called
    resources: tuple[Resource, ...]
    conflicts: tuple[Conflict, ...]


class GrpcView(msgspec.Struct, frozen=True):
    """All resources of a mesh for gRPC, but those of its servers, which follow from their names.

    `changed` names, by type, what was added, altered or removed since the view before; None when there was none.
    """

    resources: ByType
    changed: Mapping[TypeUrl, frozenset[str]] | None
    conflicts: tuple[Conflict, ...]
    parts: Mapping[ServiceKey, GrpcPart]


_NONE_LOST: frozenset[str] = frozenset()


def to_grpc_view(
    translation: Translation, previous: GrpcView | None = None, affected: frozenset[ServiceKey] | None = None
) -> GrpcView:
    """Make the view of a translation, sharing with `previous` what has not changed.

    `affected`, unless None, must name every service that takes part in what differs between the translation of `previous` and
    this one: `translation.affected`, if they are neighbours.
    """
    before = {} if previous is None else previous.parts
    now = translation.progress
    if affected is None or previous is None:
        affected = frozenset(before.keys() | now.parts.keys())
    parts = dict(before)
    gone: list[Resource] = []
    come: list[Resource] = []
    for key in affected:
        old = parts.pop(key, None)
        if old is not None:
            gone += (*old.resources, *old.called.listeners)
        part = now.parts.get(key)
        if part is None or key in now.settlement.left_out:
            continue
        lost = now.settlement.lost.get(key, _NONE_LOST)
        if old is not None and old.part is part and old.called.lost == lost:
            new = old
        else:
            new = _to_part(translation.mesh.catalog.services[key], part, lost, old)
        parts[key] = new
        come += (*new.resources, *new.called.listeners)
    resources, changed = apply(NOTHING if previous is None else previous.resources, gone, come)
    return GrpcView(
        resources=resources,
        changed=None if previous is None else changed,
        conflicts=tuple(sorted(c for part in parts.values() if part.conflicts for c in part.conflicts)),
        parts=parts,
    )


def _to_part(service: Service, part: Part, lost: frozenset[str], before: GrpcPart | None) -> GrpcPart:
    envoys = {(r.type_url, r.name): r for r in part.resources}
    known = {(r.type_url, r.name, r.version): r for r in before.resources} if before else {}
    resources: list[Resource] = []
    conflicts: list[Conflict] = []
    ports = ports_of(service)
    for front, endpoints in zip(part.frame.fronts, part.endpoints, strict=True):
        if not front.port.protocol.is_http:
            continue
        made, left_out = to_grpc_cluster(front.cluster.name, service, front.port, envoys, endpoints)
        resources += (known.get((r.type_url, r.name, r.version), r) for r in made)
        conflicts += left_out
    called = _called(part.claim, lost, _fallback(part.claim, ports), before.called if before else None)
    return GrpcPart(part, called, tuple(resources), tuple(conflicts))


def _fallback(claim: Claim, ports: Mapping[int, Port]) -> int | None:
    """The port that is meant when the caller names none: Envoy's first one, but one that speaks HTTP/2 if there is any."""
    numbers = claim.http_ports
    return next((n for n in numbers if ports[n].protocol.is_http2), numbers[0] if numbers else None)


def _called(claim: Claim, lost: frozenset[str], fallback: int | None, before: Called | None) -> Called:
    if before is not None and (before.claim, before.lost, before.fallback) == (claim, lost, fallback):
        return before
    # A gRPC client asks for the very name that it calls, so a pattern matches nothing.
    hosts = [host for tier in claim.hosts for host in tier if not host.startswith("*")]
    listeners: list[Resource] = []
    for number in claim.http_ports:
        api_listener = encode_api_listener(names.outbound(number, claim.hostname))
        wanted = [f"{host}:{number}" for host in hosts] + (hosts if number == fallback else [])
        listeners += (to_client_listener(name, api_listener) for name in wanted if name not in lost)
    return Called(claim, lost, fallback, tuple(listeners))
