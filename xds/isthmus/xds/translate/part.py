"""What one service contributes when nobody contests its names."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Conflict, Port, Service, ServiceKey
from isthmus.xds import names
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.clusters import to_cluster
from isthmus.xds.translate.endpoints import to_assignment
from isthmus.xds.translate.listeners import tcp_listener_name, to_tcp_listener
from isthmus.xds.translate.mesh import MeshSettings


class Claim(msgspec.Struct, frozen=True):
    """The names that a service wants for itself alone, in everything that is shared.

    `hosts` are its host names in tiers, the strongest claim first: the mesh's own name, `<name>.<namespace>`, `<name>`
    (namespace `default` only), aliases. `http_ports` are sorted; callers may leave out the first. `listeners` are names.
    """

    hostname: str
    hosts: tuple[tuple[str, ...], ...]
    http_ports: tuple[int, ...]
    listeners: tuple[str, ...]


class Part(msgspec.Struct, frozen=True):
    """A service's claim, and its resources if it is granted."""

    claim: Claim
    resources: tuple[Resource, ...]
    conflicts: tuple[Conflict, ...]


def to_part(service: Service, virtual_ip: str | None, settings: MeshSettings, before: Part | None) -> Part:
    """Translate one service. Resources that are as `before` are those of `before`, not copies."""
    hostname = names.hostname(service.key, settings.domain)
    hosts, conflicts = _hosts(service, hostname)
    resources: list[Resource] = []
    http_ports: list[int] = []
    listeners: list[str] = []
    ports = ports_of(service)
    for port in service.ports:
        first = ports[port.number]
        if first is not port:
            conflicts.append(
                Conflict(f"port {port.number} of {service.key}", f"port {first.name}", f"port {port.name}")
            )
    for port in ports.values():
        cluster = names.outbound(port.number, hostname)
        assignment = to_assignment(cluster, service, port)
        conflicts.extend(assignment.conflicts)
        if assignment.by_name:
            inline = to_cluster(cluster, service, port, assignment.message)
            resources.append(Resource.of(TypeUrl.CLUSTER, cluster, inline))
        else:
            resources.append(Resource.of(TypeUrl.CLUSTER, cluster, to_cluster(cluster, service, port)))
            resources.append(Resource.of(TypeUrl.ENDPOINT, cluster, assignment.message))
        if port.protocol.is_http:
            http_ports.append(port.number)
        elif virtual_ip is None:
            conflicts.append(_no_virtual_ip(service.key, port.number))
        else:
            name = tcp_listener_name(virtual_ip, port.number)
            listener = to_tcp_listener(virtual_ip, port.number, cluster)
            listeners.append(name)
            resources.append(Resource.of(TypeUrl.LISTENER, name, listener))
    return Part(
        Claim(hostname, hosts, tuple(http_ports), tuple(listeners)),
        tuple(resources) if before is None else _shared(resources, before.resources),
        tuple(conflicts),
    )


def ports_of(service: Service) -> Mapping[int, Port]:
    """The ports by number, in order; of two with one number the first by name."""
    ports: dict[int, Port] = {}
    for port in sorted(service.ports, key=lambda p: (p.number, p.name)):
        ports.setdefault(port.number, port)
    return ports


def _hosts(service: Service, hostname: str) -> tuple[tuple[tuple[str, ...], ...], list[Conflict]]:
    key = service.key
    conflicts = []
    aliases = set()
    for text in service.hostnames:
        alias = names.alias(text)
        if alias is None:
            conflicts.append(Conflict(f"alias {text!r}", "nothing: it is no host name", str(key)))
        else:
            aliases.add(alias)
    bare = (names.bare(key),) if key.namespace == "default" else ()
    own = ((hostname,), (names.qualified(key),), bare)
    return (*own, tuple(sorted(aliases.difference(*own)))), conflicts


def _no_virtual_ip(key: ServiceKey, port: int) -> Conflict:
    return Conflict(f"port {port} of {key}", "nothing: the service has no virtual IP", "its listener")


def _shared(resources: list[Resource], before: tuple[Resource, ...]) -> tuple[Resource, ...]:
    known = {(r.type_url, r.name, r.version): r for r in before}
    return tuple(known.get((r.type_url, r.name, r.version), r) for r in resources)
