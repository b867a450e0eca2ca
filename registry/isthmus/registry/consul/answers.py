"""Consul's JSON as values: what is read of each answer. Pure.

Go writes an empty list or map as null, and what nobody reads may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")

IGNORED = frozenset({"consul"})
"""The servers themselves, registered on their RPC port."""


class Locality(msgspec.Struct, rename="pascal", frozen=True):
    region: str = ""
    zone: str = ""


class Node(msgspec.Struct, rename="pascal", frozen=True):
    node: str
    address: str = ""
    datacenter: str = ""
    meta: dict[str, str] | None = None
    locality: Locality | None = None
    partition: str = ""
    peer_name: str = ""


class Weights(msgspec.Struct, rename="pascal", frozen=True):
    passing: int = 1
    warning: int = 1


class ServiceEntry(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Service")
    kind: str = msgspec.field(name="Kind", default="")
    tags: list[str] | None = msgspec.field(name="Tags", default=None)
    address: str = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)
    socket_path: str = msgspec.field(name="SocketPath", default="")
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)
    weights: Weights | None = msgspec.field(name="Weights", default=None)
    locality: Locality | None = msgspec.field(name="Locality", default=None)
    namespace: str = msgspec.field(name="Namespace", default="")
    partition: str = msgspec.field(name="Partition", default="")
    peer_name: str = msgspec.field(name="PeerName", default="")


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


class _CheckMark(msgspec.Struct, frozen=True, gc=False):
    """Of a check among thousands: what tells it from the others, and from itself before."""

    node: str = msgspec.field(name="Node", default="")
    check_id: str = msgspec.field(name="CheckID", default="")
    service_id: str = msgspec.field(name="ServiceID", default="")
    service_name: str = msgspec.field(name="ServiceName", default="")
    modify_index: int = msgspec.field(name="ModifyIndex", default=0)


class Checks(msgspec.Struct, frozen=True):
    """What the checks of an answer amount to: one number for those of each service, and of each node itself.

    Equal numbers say that no check came, went or changed. They mean nothing outside of this process.
    """

    services: Mapping[str, int]
    nodes: Mapping[str, int]


_names = msgspec.json.Decoder(dict[str, list[str] | None])
_check_marks = msgspec.json.Decoder(list[_CheckMark] | None)
_entries = msgspec.json.Decoder(list[Entry] | None)
_raw_entries = msgspec.json.Decoder(list[msgspec.Raw] | None)
_entry = msgspec.json.Decoder(Entry)
_any = msgspec.json.Decoder(object)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as e:  # msgspec lets these two through
        raise msgspec.DecodeError(f"JSON is malformed: {e}") from e


def parse_names(body: bytes) -> dict[str, frozenset[str]]:
    """`/v1/catalog/services`: the names of all services, each with the tags that any of its instances has.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return {name: frozenset(tags or ()) for name, tags in _decode(_names, body).items() if name not in IGNORED}


def parse_checks(body: bytes) -> Checks:
    """`/v1/health/state/:state`.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    services: dict[str, int] = {}
    nodes: dict[str, int] = {}
    for check in _decode(_check_marks, body) or ():
        mark = hash((check.node, check.check_id, check.service_id, check.modify_index))
        of, name = (services, check.service_name) if check.service_name else (nodes, check.node)
        of[name] = of.get(name, 0) + mark
    return Checks(services, nodes)


def parse_listing(body: bytes) -> Listing:
    """`/v1/health/service/:name`. An entry that cannot be read does not spoil the others.

    Raises:
        msgspec.DecodeError: the body is no JSON list.

    """
    try:
        return Listing(tuple(_decode(_entries, body) or ()))
    except msgspec.DecodeError:
        pass  # one by one, then
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    for raw in _decode(_raw_entries, body) or ():
        try:
            good.append(_decode(_entry, raw))
        except msgspec.DecodeError as e:
            bad.append((_name_of(raw), f"not what Consul documents: {e}"))
    return Listing(tuple(good), tuple(bad))


def _name_of(raw: msgspec.Raw) -> str:
    """The best name for an entry that has not the right shape."""
    entry: object
    try:
        entry = _decode(_any, raw)
    except msgspec.DecodeError:
        entry = None

    def text(*path: str) -> str:
        at = entry
        for key in path:
            at = at.get(key) if isinstance(at, dict) else None
        return at if isinstance(at, str) and at else "?"

    return f"service {text('Service', 'Service')}, instance {text('Service', 'ID')} on node {text('Node', 'Node')}"


def changed_checks(before: Checks, after: Checks) -> tuple[frozenset[str], frozenset[str]]:
    """Which (services, nodes) have a check that came, went or changed between two answers to the same question.

    A check of a node concerns every service on it.
    """
    services = before.services.items() ^ after.services.items()
    nodes = before.nodes.items() ^ after.nodes.items()
    return frozenset(name for name, _ in services), frozenset(node for node, _ in nodes)
