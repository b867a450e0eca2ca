"""Instances of a service at one logical port, as Envoy's endpoints."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from itertools import groupby

import msgspec
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Locality as LocalityMessage
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.registry.model import Conflict, Health, Instance, Port, Service

_STATUS = {
    Health.HEALTHY: HealthStatus.HEALTHY,
    Health.UNKNOWN: HealthStatus.UNKNOWN,
    Health.DEGRADED: HealthStatus.DEGRADED,
    Health.DRAINING: HealthStatus.DRAINING,
    Health.UNHEALTHY: HealthStatus.UNHEALTHY,
}
_RANK = {health: rank for rank, health in enumerate(_STATUS)}
_MAX_WEIGHT = 2**32 - 1
"""Envoy rejects a load assignment whose weights sum up to more."""

UNIX = "unix://"


class Assignment(msgspec.Struct, frozen=True):
    """The endpoints of one cluster. `by_name`: some have host names, which only a DNS cluster can resolve."""

    message: ClusterLoadAssignment
    by_name: bool
    conflicts: tuple[Conflict, ...]


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where an instance listens: an IP address or host name with its port, or a path with port 0."""

    host: str
    port: int
    is_name: bool = False

    def __str__(self) -> str:
        return f"{self.host} port {self.port}" if self.port else self.host

    def to_address(self) -> Address:
        """As Envoy and gRPC are told it."""
        if self.port:
            return Address(socket_address=SocketAddress(address=self.host, port_value=self.port))
        return Address(pipe=Pipe(path=self.host))


def choose(service: Service, port: Port) -> tuple[dict[Target, Instance], list[Conflict]]:
    """Where a port is served, and by which instance.

    An address that several instances claim is there once, since gRPC rejects duplicates: the instance in the best health keeps
    it.
    """
    conflicts: list[Conflict] = []
    chosen: dict[Target, Instance] = {}
    for instance in sorted(service.instances, key=lambda i: (_RANK[i.health], i.id, i.origin)):
        if port.name not in instance.ports:
            continue
        target = _target(instance.address, instance.ports[port.name])
        if target is None:
            where = f"address {instance.address!r} port {instance.ports[port.name]} of {_named(service, instance)}"
            conflicts.append(Conflict(where, "nothing: neither host and port nor unix:///path", instance.id))
            continue
        other = chosen.setdefault(target, instance)
        if other is not instance:
            conflicts.append(Conflict(f"{target} of {service.key}", _named(service, other), _named(service, instance)))
    return chosen, conflicts


def to_assignment(cluster: str, service: Service, port: Port) -> Assignment:
    """Make the load assignment of a cluster: sorted by locality, then by instance id; empty when nothing serves the port."""
    chosen, conflicts = choose(service, port)
    by_name = any(target.is_name for target in chosen)
    if by_name:
        for target in [t for t in chosen if not t.port]:
            dropped = chosen.pop(target)
            conflicts.append(
                Conflict(
                    f"endpoints of {cluster}",
                    "those with host names, which Envoy resolves",
                    f"{dropped.id} at {target}",
                )
            )
    return Assignment(assign(cluster, chosen), by_name, tuple(conflicts))


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """What endpoints are grouped by, in the order in which they are sent."""

    priority: int
    region: str
    zone: str
    sub_zone: str


def place(instance: Instance, priority: int = 0) -> Place:
    """Where an instance is, with the highest priority unless it is given."""
    at = instance.locality
    return Place(priority, at.region, at.zone, at.sub_zone)


def assign(
    cluster: str, chosen: Mapping[Target, Instance], places: Mapping[Target, Place] | None = None
) -> ClusterLoadAssignment:
    """Make the load assignment of what was chosen, put where `places` says or, without it, where it is."""
    # All weights are divided alike when their sum is more than Envoy takes.
    divisor = sum(max(1, i.weight) for i in chosen.values()) // _MAX_WEIGHT + 1
    assignment = ClusterLoadAssignment(cluster_name=cluster)
    placed = [(places[t] if places else place(i), i, t) for t, i in chosen.items()]
    placed.sort(key=lambda p: (p[0], p[1].id, p[1].origin, p[2].host, p[2].port))
    for at, members in groupby(placed, key=lambda p: p[0]):
        endpoints = [_to_endpoint(target, instance, divisor) for _, instance, target in members]
        assignment.endpoints.append(
            LocalityLbEndpoints(
                locality=LocalityMessage(region=at.region, zone=at.zone, sub_zone=at.sub_zone),
                lb_endpoints=endpoints,
                load_balancing_weight=UInt32Value(value=sum(e.load_balancing_weight.value for e in endpoints)),
                priority=at.priority,
            )
        )
    return assignment


def _to_endpoint(target: Target, instance: Instance, divisor: int) -> LbEndpoint:
    # Envoy knows no weight 0: an instance that is to get nothing is unhealthy, unless it is being drained anyway.
    status = _STATUS[instance.health]
    if instance.weight <= 0 and instance.health is not Health.DRAINING:
        status = HealthStatus.UNHEALTHY
    metadata = Metadata()
    if instance.labels:
        labels = metadata.filter_metadata["envoy.lb"].fields
        for name, value in instance.labels.items():
            labels[name].string_value = value
    own = metadata.filter_metadata["isthmus"].fields
    own["instance"].string_value = instance.id
    own["origin"].string_value = instance.origin
    return LbEndpoint(
        endpoint=Endpoint(address=target.to_address()),
        health_status=status,
        load_balancing_weight=UInt32Value(value=max(1, max(1, instance.weight) // divisor)),
        metadata=metadata,
    )


def _named(service: Service, instance: Instance) -> str:
    return f"instance {instance.id} of {service.key} ({instance.origin})"


def _target(address: str, port: int) -> Target | None:
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        return Target(path, 0) if path else None
    if not address or not 0 < port < 2**16:
        return None
    try:
        return Target(str(ipaddress.ip_address(address)), port)
    except ValueError:
        return Target(address.lower().removesuffix("."), port, is_name=True)
