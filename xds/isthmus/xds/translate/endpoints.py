"""Instances of a service at one logical port, as Envoy's endpoints.

Each endpoint is encoded once, for as long as its instance stays the same object, and an assignment is joined from them: what one
instance of ten thousand changes costs the encoding of one endpoint. Numbers of fields are those of
envoy/config/endpoint/v3/endpoint_components.proto, and of what that imports.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

import msgspec
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus

from isthmus.registry.model import Conflict, Health, Instance, Locality, Port, Service
from isthmus.xds.wire import field, header, integer

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

_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
"""As it is written in one way only, which is most of what there is and five times as quick to tell."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where an instance listens: an IP address or host name with its port, or a path with port 0."""

    host: str
    port: int
    is_name: bool = False

    def __str__(self) -> str:
        return f"{self.host} port {self.port}" if self.port else self.host


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An instance at one port. `weight` is at least 1; `field` is the LbEndpoint as it stands in its locality."""

    instance: Instance
    target: Target
    weight: int
    field: bytes


class Assignment(msgspec.Struct, frozen=True):
    """The endpoints of one cluster, encoded. `by_name`: some have host names, which only a DNS cluster can resolve."""

    body: bytes
    by_name: bool
    conflicts: tuple[Conflict, ...]
    endpoints: tuple[Endpoint, ...]


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """What endpoints are grouped by, in the order in which they are sent."""

    priority: int
    region: str
    zone: str
    sub_zone: str


def place(locality: Locality, priority: int = 0) -> Place:
    """Where a locality is, with the highest priority unless it is given."""
    return Place(priority, locality.region, locality.zone, locality.sub_zone)


def choose(service: Service, port: Port, before: Iterable[Endpoint] = ()) -> tuple[list[Endpoint], list[Conflict]]:
    """Where a port is served, and by which instance; what instances were `before`, at this port, is not made anew.

    An address that several instances claim is there once, since gRPC rejects duplicates: the instance in the best health keeps
    it.
    """
    conflicts: list[Conflict] = []
    known = {id(e.instance): e for e in before}
    found = [known.get(id(i)) or _endpoint(service, port, i, conflicts) for i in service.instances]
    endpoints = [e for e in found if e is not None]
    if len(set(map(_target_of, endpoints))) == len(endpoints):
        return endpoints, conflicts
    chosen: dict[Target, Endpoint] = {}
    for endpoint in sorted(endpoints, key=lambda e: (_RANK[e.instance.health], e.instance.id, e.instance.origin)):
        other = chosen.setdefault(endpoint.target, endpoint)
        if other is not endpoint:
            kept, dropped = _named(service, other.instance), _named(service, endpoint.instance)
            conflicts.append(Conflict(f"{endpoint.target} of {service.key}", kept, dropped))
    return list(chosen.values()), conflicts


def to_assignment(cluster: str, service: Service, port: Port, before: Iterable[Endpoint] = ()) -> Assignment:
    """Make the load assignment of a cluster: sorted by locality, then by instance id; empty when nothing serves the port."""
    endpoints, conflicts = choose(service, port, before)
    by_name = any(map(_is_name, endpoints))
    if by_name:
        kept = "those with host names, which Envoy resolves"
        for e in endpoints:
            if not e.target.port:
                conflicts.append(Conflict(f"endpoints of {cluster}", kept, f"{e.instance.id} at {e.target}"))
        endpoints = [e for e in endpoints if e.target.port]
    placed = ((place(locality), there) for locality, there in groupby(endpoints, key=_locality))
    return Assignment(assign(cluster, placed), by_name, tuple(conflicts), tuple(endpoints))


def assign(cluster: str, placed: Iterable[tuple[Place, Iterable[Endpoint]]]) -> bytes:
    """Encode the load assignment of a cluster, given its endpoints where they are; a place may come several times."""
    by_place: dict[Place, list[Endpoint]] = {}
    for at, endpoints in placed:
        by_place.setdefault(at, []).extend(endpoints)
    # All weights are divided alike when their sum is more than Envoy takes.
    divisor = sum(sum(map(_weight, there)) for there in by_place.values()) // _MAX_WEIGHT + 1
    parts = [field(1, cluster.encode())]
    for at in sorted(by_place):
        there = sorted(by_place[at], key=_id)
        if divisor > 1:
            there = [_encoded(e.instance, e.target, max(1, e.weight // divisor)) for e in there]
        members = [e.field for e in there]
        locality = b"".join(field(n, s.encode()) for n, s in enumerate((at.region, at.zone, at.sub_zone), 1) if s)
        head = field(1, locality)
        tail = field(3, integer(1, sum(map(_weight, there)))) + (integer(5, at.priority) if at.priority else b"")
        size = len(head) + sum(map(len, members)) + len(tail)
        parts += (header(2, size), head, *members, tail)
    return b"".join(parts)


def usable(endpoint: Endpoint) -> Endpoint:
    """The same for clients that know of health only whether to use it."""
    if endpoint.instance.health is Health.HEALTHY:
        return endpoint
    healthy = msgspec.structs.replace(endpoint.instance, health=Health.HEALTHY)
    return _encoded(healthy, endpoint.target, endpoint.weight)


_id = attrgetter("instance.id")  # unique in a service
_locality = attrgetter("instance.locality")
_target_of = attrgetter("target")
_is_name = attrgetter("target.is_name")
_weight = attrgetter("weight")


def _endpoint(service: Service, port: Port, instance: Instance, conflicts: list[Conflict]) -> Endpoint | None:
    number = instance.ports.get(port.name)
    if number is None:
        return None
    target = _target(instance.address, number)
    if target is None:
        where = f"address {instance.address!r} port {number} of {_named(service, instance)}"
        conflicts.append(Conflict(where, "nothing: neither host and port nor unix:///path", instance.id))
        return None
    return _encoded(instance, target, max(1, instance.weight))


def _encoded(instance: Instance, target: Target, weight: int) -> Endpoint:
    # Envoy knows no weight 0: an instance that is to get nothing is unhealthy, unless it is being drained anyway.
    status = _STATUS[instance.health]
    if instance.weight <= 0 and instance.health is not Health.DRAINING:
        status = HealthStatus.UNHEALTHY
    host = target.host.encode()
    address = field(1, field(2, host), _port(target.port)) if target.port else field(2, field(1, host))
    # Metadata.filter_metadata is a map of Struct, and Struct.fields one of Value.
    own = field(2, field(1, _INSTANCE, field(2, field(3, instance.id.encode()))), _origin(instance.origin))
    labels = _labels(tuple(sorted(instance.labels.items())))
    encoded = field(
        2,
        field(1, field(1, address)),
        integer(2, status) if status else b"",
        field(3, labels, field(1, _OWN, own)),
        _weight_field(min(weight, _MAX_WEIGHT)),
    )
    return Endpoint(instance, target, weight, encoded)


# What many endpoints have in common is kept encoded.


@lru_cache(4096)
def _port(number: int) -> bytes:
    return integer(3, number)


@lru_cache(256)
def _weight_field(weight: int) -> bytes:
    return field(4, integer(1, weight))


@lru_cache(256)
def _origin(name: str) -> bytes:
    return field(1, field(1, b"origin"), field(2, field(3, name.encode())))


@lru_cache(4096)
def _labels(labels: tuple[tuple[str, str], ...]) -> bytes:
    """What subsets of a cluster's endpoints are chosen by. The order of a map's entries is left to protobuf."""
    metadata = Metadata()
    for name, value in labels:
        metadata.filter_metadata["envoy.lb"].fields[name].string_value = value
    return metadata.SerializeToString(deterministic=True)


_OWN, _INSTANCE = field(1, b"isthmus"), field(1, b"instance")


def _named(service: Service, instance: Instance) -> str:
    return f"instance {instance.id} of {service.key} ({instance.origin})"


def _target(address: str, port: int) -> Target | None:
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        return Target(path, 0) if path else None
    if not address or not 0 < port < 2**16:
        return None
    if _IPV4.fullmatch(address):
        return Target(address, port)
    try:
        return Target(str(ipaddress.ip_address(address)), port)
    except ValueError:
        return Target(address.lower().removesuffix("."), port, is_name=True)
