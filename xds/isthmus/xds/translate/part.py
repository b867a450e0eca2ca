"""What one service contributes when nobody contests its names."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from isthmus.registry.model import Conflict, Port, Service, ServiceKey
from isthmus.xds import names
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.clusters import to_cluster
from isthmus.xds.translate.endpoints import Endpoint, to_assignment
from isthmus.xds.translate.listeners import listener_name, to_tcp_listener
from isthmus.xds.translate.mesh import MeshSettings


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The names that a service wants for itself alone, in everything that is shared.

    `hosts` are its host names in tiers, the strongest claim first: the mesh's own name, `<name>.<namespace>`, `<name>`
    (namespace `default` only), aliases. `http_ports` are sorted; callers may leave out the first. `listeners` are names.
    """

    hostname: str
    hosts: tuple[tuple[str, ...], ...]
    http_ports: tuple[int, ...]
    listeners: tuple[str, ...]


class Front(msgspec.Struct, frozen=True, gc=False):
    """A port as callers see it: its cluster, if the endpoints come over EDS, and the listener that it has for itself alone."""

    port: Port
    cluster: Resource
    listener: Resource | None


class Frame(msgspec.Struct, frozen=True, gc=False):
    """All of a service that its instances have no part in, and what it was made from: `service` has none."""

    service: Service
    virtual_ip: str | None
    settings: MeshSettings
    claim: Claim
    fronts: tuple[Front, ...]
    conflicts: tuple[Conflict, ...]


class Part(msgspec.Struct, frozen=True, gc=False):
    """A service's claim, and its resources if it is granted. `endpoints` are encoded, for each of the frame's ports."""

    frame: Frame
    resources: tuple[Resource, ...]
    conflicts: tuple[Conflict, ...]
    endpoints: tuple[tuple[Endpoint, ...], ...]

    @property
    def claim(self) -> Claim:
        """The names that it wants."""
        return self.frame.claim


def to_part(service: Service, virtual_ip: str | None, settings: MeshSettings, before: Part | None) -> Part:
    """Translate one service. Resources that are as `before` are those of `before`, not copies."""
    frame = _frame(service, virtual_ip, settings, before.frame if before else None)
    known = before.endpoints if before is not None and before.frame is frame else ((),) * len(frame.fronts)
    resources: list[Resource] = []
    conflicts = [*frame.conflicts]
    endpoints: list[tuple[Endpoint, ...]] = []
    for front, endpoints_before in zip(frame.fronts, known, strict=True):
        name = front.cluster.name
        assignment = to_assignment(name, service, front.port, endpoints_before)
        conflicts.extend(assignment.conflicts)
        endpoints.append(assignment.endpoints)
        if assignment.by_name:
            inline = to_cluster(name, service, front.port, ClusterLoadAssignment.FromString(assignment.body))
            resources.append(Resource.of(TypeUrl.CLUSTER, name, inline))
        else:
            resources += (front.cluster, Resource.of_bytes(TypeUrl.ENDPOINT, name, assignment.body))
        if front.listener is not None:
            resources.append(front.listener)
    return Part(
        frame,
        tuple(resources) if before is None else _shared(resources, before.resources),
        tuple(conflicts),
        tuple(endpoints),
    )


def _frame(service: Service, virtual_ip: str | None, settings: MeshSettings, before: Frame | None) -> Frame:
    bare = msgspec.structs.replace(service, instances=())
    if before is not None and (before.service, before.virtual_ip, before.settings) == (bare, virtual_ip, settings):
        return before
    hostname = names.hostname(service.key, settings.domain)
    hosts, conflicts = _hosts(service, hostname)
    ports = ports_of(service)
    for port in service.ports:
        first = ports[port.number]
        if first is not port:
            conflicts.append(
                Conflict(f"port {port.number} of {service.key}", f"port {first.name}", f"port {port.name}")
            )
    fronts: list[Front] = []
    for port in ports.values():
        cluster = names.outbound(port.number, hostname)
        listener = None
        if not port.protocol.is_http:
            if virtual_ip is None:
                conflicts.append(_no_virtual_ip(service.key, port.number))
            else:
                message = to_tcp_listener(virtual_ip, port.number, cluster)
                listener = Resource.of(TypeUrl.LISTENER, listener_name(virtual_ip, port.number), message)
        fronts.append(Front(port, Resource.of(TypeUrl.CLUSTER, cluster, to_cluster(cluster, service, port)), listener))
    http_ports = tuple(front.port.number for front in fronts if front.port.protocol.is_http)
    listeners = tuple(front.listener.name for front in fronts if front.listener is not None)
    return Frame(
        bare, virtual_ip, settings, Claim(hostname, hosts, http_ports, listeners), tuple(fronts), tuple(conflicts)
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
