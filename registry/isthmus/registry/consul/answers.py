"""Consul's JSON about one service, as values: what is read of it. Pure.

Go writes an empty list or map as null, and what nobody reads may be anything.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class Locality(msgspec.Struct, rename="pascal", frozen=True):
    region: str = ""
    zone: str = ""


class Node(msgspec.Struct, rename="pascal", frozen=True):
    node: str
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    locality: Locality | None = None
    partition: str = ""
    peer_name: str = ""


class Weights(msgspec.Struct, rename="pascal", frozen=True):
    passing: int = 1
    warning: int = 1


class TaggedAddress(msgspec.Struct, rename="pascal", frozen=True):
    address: str = ""
    port: int = 0


class NamedPort(msgspec.Struct, rename="pascal", frozen=True):
    """One port of several, as Consul's later releases have them."""

    name: str
    port: int
    default: bool = False


class Proxy(msgspec.Struct, frozen=True):
    """Whom a sidecar proxy stands before. Without an id it is any instance of that service on its node."""

    destination: str = msgspec.field(name="DestinationServiceName", default="")
    destination_id: str = msgspec.field(name="DestinationServiceID", default="")


class Connect(msgspec.Struct, rename="pascal", frozen=True):
    native: bool = False


class ServiceEntry(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Service")
    kind: str = msgspec.field(name="Kind", default="")
    tags: list[str] | None = msgspec.field(name="Tags", default=None)
    address: str = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)
    ports: list[NamedPort] | None = msgspec.field(name="Ports", default=None)
    tagged_addresses: dict[str, TaggedAddress] | None = msgspec.field(name="TaggedAddresses", default=None)
    socket_path: str = msgspec.field(name="SocketPath", default="")
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)
    weights: Weights | None = msgspec.field(name="Weights", default=None)
    locality: Locality | None = msgspec.field(name="Locality", default=None)
    namespace: str = msgspec.field(name="Namespace", default="")
    partition: str = msgspec.field(name="Partition", default="")
    peer_name: str = msgspec.field(name="PeerName", default="")
    proxy: Proxy | None = msgspec.field(name="Proxy", default=None)
    connect: Connect | None = msgspec.field(name="Connect", default=None)


class Check(msgspec.Struct, frozen=True):
    """One check of a node (no service id) or of a service on a node."""

    check_id: str = msgspec.field(name="CheckID", default="")
    name: str = msgspec.field(name="Name", default="")
    status: str = msgspec.field(name="Status", default="")
    service_id: str = msgspec.field(name="ServiceID", default="")


class Entry(msgspec.Struct, rename="pascal", frozen=True):
    """One registered instance with its node and its checks, as `/v1/health/service/:name` lists them."""

    node: Node
    service: ServiceEntry
    checks: list[Check] | None = None

    @property
    def where(self) -> str:
        return f"service {self.service.name}, instance {self.service.id} on node {self.node.node}"


class Listing(msgspec.Struct, frozen=True):
    """The answer about one service: the entries that can be read, and the others as (where, reason)."""

    entries: tuple[Entry, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


_entries = msgspec.json.Decoder(list[Entry] | None)
_raw_entries = msgspec.json.Decoder(list[msgspec.Raw] | None)
_entry = msgspec.json.Decoder(Entry)
_any = msgspec.json.Decoder(object)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """The value.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as e:  # msgspec lets these two through
        raise msgspec.DecodeError(f"JSON is malformed: {e}") from e


def parse_listing(body: bytes) -> Listing:
    """`/v1/health/service/:name`. An entry that cannot be read does not spoil the others.

    Raises:
        msgspec.DecodeError: the body is no JSON list.

    """
    try:
        return Listing(tuple(decode(_entries, body) or ()))
    except msgspec.DecodeError:
        pass  # one by one, then
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    for raw in decode(_raw_entries, body) or ():
        try:
            good.append(decode(_entry, raw))
        except msgspec.DecodeError as e:
            bad.append((_name_of(raw), f"not what Consul documents: {e}"))
    return Listing(tuple(good), tuple(bad))


def _name_of(raw: msgspec.Raw) -> str:
    """The best name for an entry that has not the right shape."""
    entry: object
    try:
        entry = decode(_any, raw)
    except msgspec.DecodeError:
        entry = None

    def text(*path: str) -> str:
        at = entry
        for key in path:
            at = at.get(key) if isinstance(at, dict) else None
        return at if isinstance(at, str) and at else "?"

    return f"service {text('Service', 'Service')}, instance {text('Service', 'ID')} on node {text('Node', 'Node')}"
