"""The one service model that every registry is normalised into.

Values only: frozen, comparable by content, with no trace of a platform's client library. The words are the registries' words
(service, instance, origin); Envoy's words begin in `isthmus.xds.translate`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated

import msgspec


class Health(enum.Enum):
    """What may be sent to an instance, whatever its platform calls it."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Serves, but only when the healthy ones do not suffice."""
    DRAINING = "draining"
    """Finishes what it has and gets nothing new: maintenance, OUT_OF_SERVICE, a stopping allocation."""
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    """The platform has no opinion; treated as healthy by Envoy."""


class Protocol(enum.Enum):
    """Application protocol of a logical port; the names are Istio's port-name prefixes."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    GRPC_WEB = "grpc-web"
    HTTPS = "https"
    TLS = "tls"
    TCP = "tcp"

    @property
    def is_http(self) -> bool:
        """Whether a proxy can read requests on it, and so route by authority."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether upstream connections speak HTTP/2."""
        return self in (Protocol.HTTP2, Protocol.GRPC)


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})


class ServiceKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of a service over all registries."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"


class Locality(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where an instance runs, in Envoy's three levels; empty strings where a platform does not say."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


class Port(msgspec.Struct, frozen=True, order=True, gc=False):
    """A *logical* port of a service: what callers name. Instances have ports of their own (docs/architecture.md)."""

    name: str
    number: int
    protocol: Protocol


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One running copy of a service.

    `address` is an IP address, a host name (resolved by Envoy), or `unix:///path`. `ports` maps the service's port names to
    this instance's port numbers; a name that is missing means that the instance does not serve that port. `weight` is
    relative to the other instances of the service, 0 meaning no traffic. `taper` is how much of its weight it gets, in percent,
    because there are signs that it may be dead; merging turns it into weights. `provenance` is where the record came from (node,
    datacenter, service id, ...), for people; nothing routes on it.
    """

    id: str
    origin: str
    address: str
    ports: Mapping[str, int]
    health: Health = Health.HEALTHY
    weight: int = 1
    locality: Locality = Locality()
    labels: Mapping[str, str] = {}
    network: str = ""
    identity: str = ""
    tls_mode: str = ""
    provenance: Mapping[str, str] = {}
    taper: int = 100

    @property
    def serves(self) -> bool:
        """Whether it may be sent requests, be it only when others do not suffice."""
        return self.weight > 0 and self.health not in (Health.UNHEALTHY, Health.DRAINING)


class OutlierDetection(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """When callers leave an instance out for a while by what they see of it, whatever its registry says.

    `consecutive_failures` counts requests in a row without an answer of the application: connections refused, reset and timed
    out, and 502, 503 and 504. `consecutive_5xx` counts any answer from 500 on as well; 0 does not. `ejection_time` is in
    seconds, and grows each time; `interval`, in seconds, is how often callers look whether it is over. Not more than
    `max_percent` of a service's instances are left out at once.
    """

    consecutive_failures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    consecutive_5xx: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10.0
    ejection_time: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 30.0
    max_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class Service(msgspec.Struct, frozen=True, gc=False):
    """A service as one registry, or after merging all of them, knows it.

    `ports` is sorted by number and never empty; `instances` is sorted by id, with unique ids. `hostnames` are the aliases its
    origins give it (`reviews.service.consul`); the mesh's own name is added by translation. `outlier_detection` is set by
    merging, where a registry notices crashes late.
    """

    key: ServiceKey
    ports: tuple[Port, ...]
    instances: tuple[Instance, ...] = ()
    hostnames: frozenset[str] = frozenset()
    external: bool = False
    outlier_detection: OutlierDetection | None = None


class Quarantined(msgspec.Struct, frozen=True, order=True, gc=False):
    """An object that could not be used, and so was left out while the rest went on."""

    origin: str
    where: str
    """What the operator can look up: `reviews.yaml:12`, `service reviews, instance reviews-1 on node n1`."""
    reason: str


class Origin(msgspec.Struct, frozen=True, order=True, gc=False):
    """A configured adapter: its name in the configuration and the platform behind it (`consul`, `file`, ...)."""

    name: str
    kind: str


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that one origin knows, at one moment.

    `cursor` is the platform's position (Consul index, etcd revision), for people and for the guard. `changed` names the keys
    that differ from the snapshot yielded before it by the same iteration; None means "compare all".

    Absence may prove nothing. `doubt` is the reason why, where that holds for all of it (the server is still syncing), else
    empty; `doubts` has the reasons for single services and their instances (an ACL filtered the answer about them), whether or
    not they are in `services`. `unlisted` is the reason why services may exist that a complete listing did not name: whoever
    goes on watching asks for those that it knew and puts what it cannot tell into `doubts`; whoever begins anew cannot ask.

    `kept` names, by service and id, the instances that the origin itself no longer lists: the guard holds them, or they drain.
    """

    origin: Origin
    services: Mapping[ServiceKey, Service]
    cursor: str = ""
    changed: frozenset[ServiceKey] | None = None
    quarantined: tuple[Quarantined, ...] = ()
    doubt: str = ""
    doubts: Mapping[ServiceKey, str] = {}
    unlisted: str = ""
    kept: frozenset[tuple[ServiceKey, str]] = frozenset()


class Conflict(msgspec.Struct, frozen=True, order=True, gc=False):
    """Two claims that cannot both hold; the first is kept, in the order of the origins and then of the keys."""

    subject: str
    kept: str
    dropped: str


class Removed(msgspec.Struct, frozen=True):
    """An instance that was taken out of the catalog because it is doubtful: the finding's code, and what it says."""

    key: ServiceKey
    instance: Instance
    code: str
    text: str


class Catalog(msgspec.Struct, frozen=True):
    """All origins, merged. `changed` is a hint as in Snapshot, relative to the catalog before it.

    `removed` has, by service, what was left out of it by doubt. `changed_at` is the monotonic second at which the earliest change
    since the catalog before it was read.
    """

    services: Mapping[ServiceKey, Service]
    conflicts: tuple[Conflict, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    changed: frozenset[ServiceKey] | None = None
    changed_at: float | None = None
    removed: Mapping[ServiceKey, tuple[Removed, ...]] = {}
