"""xDS resources: a name, a content hash and the encoded bytes, shared by every proxy that is sent them."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from google.protobuf.message import Message

from isthmus.xds import wire


class TypeUrl(enum.StrEnum):
    """The resource types that are served. Requests may name others; they are answered as unknown types."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    SCOPED_ROUTE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
    VIRTUAL_HOST = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a name
    RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
    EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    DNS_TABLE = "type.googleapis.com/envoy.data.dns.v3.DnsTable"
    """The names of one service, for the agent's DNS. No Envoy asks for it."""

    @property
    def short(self) -> str:
        """The name that people use: CDS, EDS, LDS, RDS, SRDS, VHDS, SDS, RTDS, ECDS; DNS for the agent's."""
        return _SHORT[self]


_SHORT = {
    TypeUrl.CLUSTER: "CDS",
    TypeUrl.ENDPOINT: "EDS",
    TypeUrl.LISTENER: "LDS",
    TypeUrl.ROUTE: "RDS",
    TypeUrl.SCOPED_ROUTE: "SRDS",
    TypeUrl.VIRTUAL_HOST: "VHDS",
    TypeUrl.SECRET: "SDS",
    TypeUrl.RUNTIME: "RTDS",
    TypeUrl.EXTENSION: "ECDS",
    TypeUrl.DNS_TABLE: "DNS",
}

WHOLE_TYPES = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.SCOPED_ROUTE, TypeUrl.DNS_TABLE})
"""Types that a client may ask for as a whole, and of which a state-of-the-world response is the whole truth.

The protocol page names clusters and listeners; Envoy asks for its scoped routes in the same way, and takes them so. The agent
asks for all names.
"""


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One resource, encoded once. `version` is a hash of its content: equal on every replica and after a restart.

    `field` is the encoded message as it stands in a response: field 2 with a google.protobuf.Any, in both variants. The last
    `size` bytes of it are the message itself. `digest` is a number below 2^128 made from name and version, the resource's part
    in a SetVersion.
    """

    type_url: TypeUrl
    name: str
    version: str
    field: bytes
    size: int
    digest: int = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "digest", _digest(self.name, self.version))

    @classmethod
    def of(cls, type_url: TypeUrl, name: str, message: Message) -> Resource:
        """Encode a message. Deterministic, so that equal content gives equal versions."""
        return cls.of_bytes(type_url, name, message.SerializeToString(deterministic=True))

    @classmethod
    def of_bytes(cls, type_url: TypeUrl, name: str, body: bytes) -> Resource:
        """Take a message that is encoded already."""
        version = hashlib.blake2b(body, digest_size=8).hexdigest()
        head = _TYPE_FIELDS[type_url] + wire.header(2, len(body))
        return cls(type_url, name, version, wire.field(2, head, body), len(body))

    @property
    def body(self) -> bytes:
        """The encoded message."""
        return self.field[len(self.field) - self.size :]


_TYPE_FIELDS = {t: wire.field(1, t.value.encode()) for t in TypeUrl}
_MODULUS = 1 << 128


def _digest(name: str, version: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{name}\0{version}".encode(), digest_size=16).digest(), "big")


class SetVersion(msgspec.Struct, frozen=True, gc=False):
    """A content hash of a set of named versions that can follow single changes.

    The sum of the members' hashes modulo 2^128: the order in which members came and went does not matter, and a change costs
    one addition whatever the size of the set (an incremental multiset hash).
    """

    total: int = 0

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> SetVersion:
        """The version of a whole set."""
        return cls(sum(r.digest for r in resources) % _MODULUS)

    def replaced(self, before: Iterable[Resource], after: Iterable[Resource]) -> SetVersion:
        """The version with others in place of some."""
        return SetVersion((self.total - sum(r.digest for r in before) + sum(r.digest for r in after)) % _MODULUS)

    def replace(self, name: str, old: str | None, new: str | None) -> SetVersion:
        """The version after `name` went from one version to another; None stands for absence."""
        total = self.total
        if old is not None:
            total -= _digest(name, old)
        if new is not None:
            total += _digest(name, new)
        return SetVersion(total % _MODULUS)

    def __str__(self) -> str:
        return f"{self.total:032x}"


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one generation changed: names added, altered or removed, by type."""

    generation: int
    names: Mapping[TypeUrl, frozenset[str]]


class ResourceSnapshot(msgspec.Struct, frozen=True):
    """All resources at one generation. Generations count up within this process; versions mean content.

    `changed_at` is the monotonic second at which the registry change behind this generation was read, None when there was
    none (the first generation, a change of settings).
    """

    generation: int
    resources: Mapping[TypeUrl, Mapping[str, Resource]]
    versions: Mapping[TypeUrl, SetVersion]
    log: tuple[Change, ...] = ()
    changed_at: float | None = None
    memo: dict[Any, Any] = {}
    """What streams have worked out from this generation and share; it changes nothing but time.

    It is shared with the views that differ from this one in some types alone, so what it holds says which version it is of.
    """
    reaches: dict[int, Mapping[TypeUrl, frozenset[str]]] = {}
    """What `changed_since` found out, by generation."""

    def of_type(self, type_url: TypeUrl) -> Mapping[str, Resource]:
        """Resources of a type by name; empty when there are none."""
        return self.resources.get(type_url, {})

    def changed_since(self, generation: int) -> Mapping[TypeUrl, frozenset[str]] | None:
        """By type, the names that may differ from what they were at `generation`; None when the log does not reach so far."""
        if generation == self.generation:
            return {}
        if not self.log or self.log[0].generation > generation + 1:
            return None
        reach = self.reaches.get(generation)
        if reach is None:
            known: dict[TypeUrl, frozenset[str]] = {}
            for change in reversed(self.log):
                if change.generation <= generation:
                    break
                for type_url, names in change.names.items():
                    known[type_url] = known.get(type_url, frozenset()) | names
            reach = self.reaches[generation] = known
        return reach
