"""xDS resources: a name, a content hash and the encoded bytes, shared by every proxy that is sent them."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from google.protobuf.message import Message


class TypeUrl(enum.StrEnum):
    """The resource types that are served. Requests may name others; they are answered as unknown types."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

    @property
    def short(self) -> str:
        """The name that people use: CDS, EDS, LDS, RDS."""
        return _SHORT[self]


_SHORT = {TypeUrl.CLUSTER: "CDS", TypeUrl.ENDPOINT: "EDS", TypeUrl.LISTENER: "LDS", TypeUrl.ROUTE: "RDS"}


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One resource, encoded once. `version` is a hash of `body`: equal on every replica and after a restart."""

    type_url: TypeUrl
    name: str
    version: str
    body: bytes

    @classmethod
    def of(cls, type_url: TypeUrl, name: str, message: Message) -> Resource:
        """Encode a message. Deterministic, so that equal content gives equal versions."""
        return cls.of_bytes(type_url, name, message.SerializeToString(deterministic=True))

    @classmethod
    def of_bytes(cls, type_url: TypeUrl, name: str, body: bytes) -> Resource:
        """Take a message that is encoded already."""
        return cls(type_url, name, hashlib.blake2b(body, digest_size=8).hexdigest(), body)


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
        return cls(sum(_digest(r.name, r.version) for r in resources) % _MODULUS)

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

    def of_type(self, type_url: TypeUrl) -> Mapping[str, Resource]:
        """Resources of a type by name; empty when there are none."""
        return self.resources.get(type_url, {})

    def changed_since(self, generation: int, type_url: TypeUrl) -> frozenset[str] | None:
        """Names that may differ from what they were at `generation`; None when the log does not reach back so far."""
        if generation == self.generation:
            return frozenset()
        if not self.log or self.log[0].generation > generation + 1:
            return None
        names: frozenset[str] = frozenset()
        for change in reversed(self.log):
            if change.generation <= generation:
                break
            names |= change.names.get(type_url, frozenset())
        return names
