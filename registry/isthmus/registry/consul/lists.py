"""Consul's JSON about everything it has, as values: services, checks, nodes, what a peer exports. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.consul.answers import decode
from isthmus.registry.reuse import once

IGNORED = frozenset({"consul"})
"""The servers themselves, registered on their RPC port."""


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


class _NodeMark(msgspec.Struct, rename="pascal", frozen=True, gc=False):
    node: str = ""
    modify_index: int = 0


class _Registered(msgspec.Struct, frozen=True, gc=False):
    id: str = msgspec.field(name="ID", default="")
    service: str = msgspec.field(name="Service", default="")
    modify_index: int = msgspec.field(name="ModifyIndex", default=0)


class _OnNode(msgspec.Struct, rename="pascal", frozen=True):
    services: list[_Registered] | None = None


class Peering(msgspec.Struct, frozen=True):
    """What is imported from a peer: the names, and the state in which the peering is."""

    state: str
    names: dict[str, frozenset[str]]


class _StreamStatus(msgspec.Struct, rename="pascal", frozen=True):
    imported_services: list[str] | None = None


class _Peering(msgspec.Struct, rename="pascal", frozen=True):
    state: str = ""
    stream_status: _StreamStatus | None = None


class _AgentConfig(msgspec.Struct, rename="pascal", frozen=True):
    datacenter: str = ""


class _Agent(msgspec.Struct, rename="pascal", frozen=True):
    config: _AgentConfig


_names = msgspec.json.Decoder(dict[str, list[str] | None])
_check_marks = msgspec.json.Decoder(list[_CheckMark] | None)
_node_marks = msgspec.json.Decoder(list[_NodeMark] | None)
_on_node = msgspec.json.Decoder(_OnNode)
_peering = msgspec.json.Decoder(_Peering)
_self = msgspec.json.Decoder(_Agent)


def parse_names(body: bytes) -> dict[str, frozenset[str]]:
    """`/v1/catalog/services`: the names of all services, each with the tags that any of its instances has.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return {name: once(frozenset(tags or ())) for name, tags in decode(_names, body).items() if name not in IGNORED}


def parse_checks(body: bytes) -> Checks:
    """`/v1/health/state/:state`.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    services: dict[str, int] = {}
    nodes: dict[str, int] = {}
    for check in decode(_check_marks, body) or ():
        mark = hash((check.node, check.check_id, check.service_id, check.modify_index))
        of, name = (services, check.service_name) if check.service_name else (nodes, check.node)
        of[name] = of.get(name, 0) + mark
    return Checks(services, nodes)


def parse_nodes(body: bytes) -> dict[str, int]:
    """`/v1/catalog/nodes`: the index at which each node was registered last.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return {n.node: n.modify_index for n in decode(_node_marks, body) or ()}


def parse_registered(body: bytes) -> dict[tuple[str, str], int]:
    """`/v1/catalog/node-services/:node`: by the service's name and the instance's id the index of its last registration.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return {(s.service, s.id): s.modify_index for s in decode(_on_node, body).services or ()}


def parse_peering(body: bytes) -> Peering:
    """`/v1/peering/:name`.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    said = decode(_peering, body)
    names = (said.stream_status.imported_services if said.stream_status else None) or ()
    return Peering(said.state, {name: frozenset() for name in names if name not in IGNORED})


def parse_self(body: bytes) -> str:
    """`/v1/agent/self`: the agent's datacenter.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return decode(_self, body).config.datacenter


def changed_checks(before: Checks, after: Checks) -> tuple[frozenset[str], frozenset[str]]:
    """Which (services, nodes) have a check that came, went or changed between two answers to the same question.

    A check of a node concerns every service on it.
    """
    services = before.services.items() ^ after.services.items()
    nodes = before.nodes.items() ^ after.nodes.items()
    return frozenset(name for name, _ in services), frozenset(node for node, _ in nodes)
