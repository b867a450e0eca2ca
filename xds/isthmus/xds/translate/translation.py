"""The catalog of a mesh, as Envoy's resources.

    services ──► parts ──► claims ──► settlement ─┬─► resources of those that take part
                 (one per service, kept)          └─► virtual hosts (one per service, kept) ──► route configuration

Translation is a function of the mesh. What the translation before it found out about services that have not changed since is
shared, whether the catalog hints at what changed or all is compared: the outcome is the same. A change of instances ends at
the first arrow, since claims come from names and ports alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds import names
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.apply import NOTHING, ByType, apply
from isthmus.xds.translate.contest import Settlement, domains_of, settle
from isthmus.xds.translate.listeners import OUTBOUND_HTTP, listener_name, to_http_listener
from isthmus.xds.translate.mesh import Mesh
from isthmus.xds.translate.part import Claim, Part, to_part
from isthmus.xds.translate.routes import encode_route_configuration, encode_virtual_host, to_virtual_host


class Hosts(msgspec.Struct, frozen=True, gc=False):
    """The encoded virtual hosts of a service, and what they were made from."""

    claim: Claim
    lost: frozenset[str]
    encoded: bytes


class Progress(msgspec.Struct, frozen=True):
    """What the next translation takes up, and the translation for gRPC."""

    parts: Mapping[ServiceKey, Part] = {}
    settlement: Settlement = Settlement()
    hosts: Mapping[ServiceKey, Hosts] = {}


class Translation(msgspec.Struct, frozen=True):
    """All resources of a mesh, for Envoy.

    `changed` names, by type, what was added, altered or removed since the translation before; None when there was none.
    `affected` has the services that took part in that.
    """

    mesh: Mesh
    resources: ByType
    changed: Mapping[TypeUrl, frozenset[str]] | None
    affected: frozenset[ServiceKey]
    conflicts: tuple[Conflict, ...]
    progress: Progress


_NO_NAMES: frozenset[str] = frozenset()


def translate(mesh: Mesh, previous: Translation | None = None) -> Translation:
    """Translate a mesh, sharing with `previous` what has not changed.

    `mesh.catalog.changed`, unless None, must name every key whose service differs from the one in `previous`.
    """
    before = Progress() if previous is None else previous.progress

    changed_keys = _changed_keys(mesh, previous)
    parts = _parts(mesh, before.parts, changed_keys) if changed_keys else before.parts
    settings_changed = previous is None or previous.mesh.settings != mesh.settings
    settlement, hosts = before.settlement, before.hosts
    if settings_changed or any(_claim(parts, key) != _claim(before.parts, key) for key in changed_keys):
        outbound = listener_name(mesh.settings.outbound_address, mesh.settings.outbound_port)
        settlement = settle({key: part.claim for key, part in parts.items()}, outbound)
        hosts = {
            key: _hosts(parts[key].claim, settlement.lost.get(key, _NO_NAMES), hosts.get(key))
            for key in settlement.order
        }

    affected = changed_keys | _affected(before.settlement, settlement)
    gone = [r for key in affected for r in _granted(key, before.parts, before.settlement)]
    come = [r for key in affected for r in _granted(key, parts, settlement)]
    if settings_changed:
        come.append(Resource.of(TypeUrl.LISTENER, OUTBOUND_HTTP, to_http_listener(mesh.settings)))
    if hosts is not before.hosts:
        body = encode_route_configuration(hosts[key].encoded for key in settlement.order)
        come.append(Resource.of_bytes(TypeUrl.ROUTE, OUTBOUND_HTTP, body))
    resources, differing = apply(NOTHING if previous is None else previous.resources, gone, come)
    return Translation(
        mesh=mesh,
        resources=resources,
        changed=None if previous is None else differing,
        affected=affected,
        conflicts=_conflicts(parts, settlement),
        progress=Progress(parts, settlement, hosts),
    )


def _changed_keys(mesh: Mesh, previous: Translation | None) -> frozenset[ServiceKey]:
    services = mesh.catalog.services
    if previous is None:
        return frozenset(services)
    before = previous.mesh
    if before.settings != mesh.settings:
        return frozenset(services) | frozenset(before.catalog.services)
    changed = mesh.catalog.changed
    if changed is None:
        changed = _differing_keys(before.catalog.services, services)
    return changed | _differing_keys(before.virtual_ips, mesh.virtual_ips)


def _differing_keys(old: Mapping[ServiceKey, object], new: Mapping[ServiceKey, object]) -> frozenset[ServiceKey]:
    if old is new:
        return frozenset()
    gone = old.keys() - new.keys()
    return frozenset(gone.union(key for key, value in new.items() if old.get(key) != value))


def _parts(
    mesh: Mesh, before: Mapping[ServiceKey, Part], changed_keys: Iterable[ServiceKey]
) -> Mapping[ServiceKey, Part]:
    parts = dict(before)
    for key in changed_keys:
        service = mesh.catalog.services.get(key)
        if service is None:
            parts.pop(key, None)
        else:
            parts[key] = to_part(service, mesh.virtual_ips.get(key), mesh.settings, before.get(key))
    return parts


def _claim(parts: Mapping[ServiceKey, Part], key: ServiceKey) -> Claim | None:
    part = parts.get(key)
    return None if part is None else part.claim


def _hosts(claim: Claim, lost: frozenset[str], before: Hosts | None) -> Hosts:
    if before is not None and (before.claim is claim or before.claim == claim) and before.lost == lost:
        return before
    encoded = b""
    for number in claim.http_ports:
        # Callers may leave out the first port, and that one only.
        wanted = [d for tier in claim.hosts for host in tier for d in domains_of(host, [number])]
        if number != claim.http_ports[0]:
            wanted = [d for d in wanted if d.endswith(f":{number}")]
        domains = [d for d in wanted if d not in lost]
        if domains:
            name = f"{claim.hostname}:{number}"
            encoded += encode_virtual_host(to_virtual_host(name, domains, names.outbound(number, claim.hostname)))
    return Hosts(claim, lost, encoded)


def _affected(before: Settlement, after: Settlement) -> frozenset[ServiceKey]:
    """Keys whose resources the settlement lets in or keeps out anew."""
    if before is after:
        return frozenset()
    return (before.left_out ^ after.left_out).union(
        _differing_keys(before.lost, after.lost), _differing_keys(before.names_lost, after.names_lost)
    )


def _granted(key: ServiceKey, parts: Mapping[ServiceKey, Part], settlement: Settlement) -> Iterable[Resource]:
    part = parts.get(key)
    if part is None or key in settlement.left_out:
        return ()
    lost = settlement.lost.get(key)
    if not lost:
        return part.resources
    return [r for r in part.resources if r.type_url is not TypeUrl.LISTENER or r.name not in lost]


def _conflicts(parts: Mapping[ServiceKey, Part], settlement: Settlement) -> tuple[Conflict, ...]:
    own = [conflict for part in parts.values() if part.conflicts for conflict in part.conflicts]
    return tuple(sorted({*own, *settlement.conflicts})) if own else settlement.conflicts
