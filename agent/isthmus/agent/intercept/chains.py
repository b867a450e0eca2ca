"""A plan as chains of rules, the same for every back end. Pure.

A flow is captured when its first packet is seen (SYN), never later: whatever is connected already goes on, also where the kernel
only begins to track connections because of these rules and takes the middle of one for a new one.

    nat     OUTPUT      tcp  ISTHMUS_OUTPUT    a local program connects: whose, over which interface → ISTHMUS_TO → Envoy
                        both ISTHMUS_DNS       a local program asks for a name → ISTHMUS_DNS_TO → the agent
            PREROUTING  tcp  ISTHMUS_INBOUND   somebody connects to this host → ISTHMUS_PORTS → Envoy
    mangle  PREROUTING  tcp  ISTHMUS_INVALID   packets of no connection
                        tcp  ISTHMUS_TPROXY    as ISTHMUS_INBOUND, for TPROXY → ISTHMUS_DIVERT → Envoy
            OUTPUT      tcp  ISTHMUS_MARK      a local server answers Envoy, which speaks with the caller's address
    raw     OUTPUT      udp  ISTHMUS_ZONE      captured questions for names are tracked apart

Questions are tracked apart because UDP knows no end: the entry of a captured question stays for half a minute, and a question of
the agent's own to the same server, which happens to get the same source port, would be led back to the agent.

Two marks serve TPROXY, in the bits of `Plan.mask`. `Plan.mark` is on packets that belong on this host whatever their address is:
the routing table of `routes.py` sends them to `lo`. Envoy, when it keeps a caller's address, puts it on its connections to the
local server, and ISTHMUS_MARK on the server's answers. `Plan.captured_mark` remembers on a connection that it was captured, so
that its third packet reaches Envoy also while the kernel answers with SYN cookies and has no socket for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from isthmus.agent.intercept.plan import ALL, LOOPBACK, OWN_PORTS, SSH, Family, Plan

TableName = Literal["nat", "mangle", "raw"]
HookName = Literal["PREROUTING", "OUTPUT"]
Protocol = Literal["tcp", "udp"]
_DNS = (53, 53)
_PROTOCOLS: tuple[Protocol, ...] = ("udp", "tcp")

PREFIX = "ISTHMUS_"
ZONE = 15053
"""The zone of captured questions for names."""
ENVOYS_SOURCE = "127.0.0.6/32"
"""From here Envoy connects to a local server that it could not reach by 127.0.0.1, as Istio's does: it is not captured again."""


class Return(msgspec.Struct, frozen=True, tag=True):
    """Not by this chain."""


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Nowhere."""


class Jump(msgspec.Struct, frozen=True, tag=True):
    """See another chain."""

    chain: str


class Redirect(msgspec.Struct, frozen=True, tag=True):
    """To a port of this host, by changing the packet's destination."""

    port: int


class Tproxy(msgspec.Struct, frozen=True, tag=True):
    """To a port of this host, the packet unchanged but for its mark."""

    port: int
    mark: int
    mask: int


class SetMark(msgspec.Struct, frozen=True, tag=True):
    """Mark the packet, and go on."""

    mark: int
    mask: int


class SetConnectionMark(msgspec.Struct, frozen=True, tag=True):
    """Mark the connection, and go on."""

    mark: int
    mask: int


class Zone(msgspec.Struct, frozen=True, tag=True):
    """Track the connection in a zone of its own, and go on."""

    number: int


Action = Return | Drop | Jump | Redirect | Tproxy | SetMark | SetConnectionMark | Zone


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What is done with packets for which all that is given here holds."""

    do: Action
    protocol: Protocol | None = "tcp"
    """None: both."""
    first: bool | None = None
    """The first packet of a TCP connection, or any other."""
    invalid: bool = False
    """Of no connection."""
    source: str = ""
    destination: str = ""
    not_destination: str = ""
    local: bool | None = None
    """Whether the destination is an address of this host."""
    came_in: str = ""
    goes_out: str = ""
    source_port: int = 0
    ports: tuple[int, int] | None = None
    """Destination ports, both ends included."""
    uid: int | None = None
    gid: int | None = None
    mark: tuple[int, int] | None = None
    """The packet's mark and the bits of it that count."""
    connection_mark: tuple[int, int] | None = None


class Chain(msgspec.Struct, frozen=True):
    """Rules in order; behind the last one it returns."""

    name: str
    rules: tuple[Rule, ...]


class Hook(msgspec.Struct, frozen=True):
    """Where packets of a protocol enter a chain: behind the rules of others, or before them."""

    at: HookName
    protocol: Protocol
    chain: str
    early: bool = False


class Table(msgspec.Struct, frozen=True):
    """Our part of one of the kernel's tables."""

    name: TableName
    hooks: tuple[Hook, ...]
    chains: tuple[Chain, ...]


def to_tables(plan: Plan, family: Family) -> tuple[Table, ...]:
    """All that is put into the kernel for one family, empty tables left out; a chain stands before those that jump to it."""
    return tuple(table for table in (_raw(plan, family), _mangle(plan), _nat(plan, family)) if table.hooks)


def _nat(plan: Plan, family: Family) -> Table:
    redirected = plan.inbound != () and not plan.tproxy
    outbound = bool(plan.networks or plan.ports)
    itself = redirected and family == "ipv4"
    chains, hooks = [], []
    if plan.nameservers:
        chains += [
            _chain("DNS_TO", _questions(plan, family, _PROTOCOLS, Redirect(plan.dns_port))),
            _chain("DNS", [Rule(do=Return(), first=False), *_owned(plan, "DNS_TO")]),
        ]
        # Before others: in a container, Docker leads questions for names to itself.
        hooks += [Hook("OUTPUT", protocol, f"{PREFIX}DNS", early=True) for protocol in _PROTOCOLS]
    if redirected:
        chains.append(_chain("PORTS", _ports(plan, Redirect(plan.inbound_port))))
    if outbound:
        chains.append(_chain("TO", _to(plan, family)))
    if outbound or itself:
        chains.append(_chain("OUTPUT", _output(plan, family, itself=itself, outbound=outbound)))
        hooks.append(Hook("OUTPUT", "tcp", f"{PREFIX}OUTPUT"))
    if redirected or (outbound and plan.virtual_interfaces):
        chains.append(_chain("INBOUND", _inbound(plan, redirected=redirected, outbound=outbound)))
        hooks.append(Hook("PREROUTING", "tcp", f"{PREFIX}INBOUND"))
    return Table("nat", tuple(hooks), tuple(chains))


def _mangle(plan: Plan) -> Table:
    chains, hooks = [], []
    if plan.drop_invalid:
        chains.append(_chain("INVALID", [Rule(do=Drop(), invalid=True)]))
        hooks.append(Hook("PREROUTING", "tcp", f"{PREFIX}INVALID"))
    if plan.tproxy:
        own, captured = (plan.mark & plan.mask, plan.mask), (plan.captured_mark & plan.mask, plan.mask)
        divert = Jump(f"{PREFIX}DIVERT")
        chains += [
            _chain("DIVERT", [Rule(do=SetConnectionMark(*captured)), Rule(do=Tproxy(plan.inbound_port, *own))]),
            _chain(
                "TPROXY",
                [
                    Rule(do=SetConnectionMark(*own), came_in="lo", mark=own),
                    Rule(do=Return(), came_in="lo"),
                    Rule(do=divert, connection_mark=captured),
                    Rule(do=Return(), first=False),
                    *(Rule(do=Return(), came_in=i) for i in (*plan.interfaces_exclude, *plan.virtual_interfaces)),
                    Rule(do=Return(), local=False),
                    *_ports(plan, divert),
                ],
            ),
            _chain("MARK", [Rule(do=SetMark(*own), connection_mark=own)]),
        ]
        hooks += [Hook("PREROUTING", "tcp", f"{PREFIX}TPROXY"), Hook("OUTPUT", "tcp", f"{PREFIX}MARK")]
    return Table("mangle", tuple(hooks), tuple(chains))


def _raw(plan: Plan, family: Family) -> Table:
    if not plan.nameservers:
        return Table("raw", (), ())
    answers = Rule(do=Zone(ZONE), protocol="udp", source_port=plan.dns_port)
    return Table(
        "raw",
        (Hook("OUTPUT", "udp", f"{PREFIX}ZONE"),),
        (
            _chain("ZONE_TO", _questions(plan, family, ("udp",), Zone(ZONE))),
            _chain("ZONE", [answers, *_owned(plan, "ZONE_TO")]),
        ),
    )


def _chain(name: str, rules: Iterable[Rule]) -> Chain:
    return Chain(PREFIX + name, tuple(rules))


def _output(plan: Plan, family: Family, *, itself: bool, outbound: bool) -> Iterator[Rule]:
    yield Rule(do=Return(), first=False)
    if itself:
        # Envoy chose this host's own instance of a service: through the inbound side, as anybody else's connection.
        yield Rule(do=Return(), source=ENVOYS_SOURCE, goes_out="lo")
        for uid in plan.proxy_uids:
            ports = Jump(f"{PREFIX}PORTS")
            yield Rule(do=ports, goes_out="lo", not_destination=LOOPBACK["ipv4"], uid=uid)
    if outbound:
        # The mesh's addresses are on loopback, so that without rules they are reached there; Envoy does not listen at them now.
        yield Rule(do=Return(), goes_out="lo", not_destination=plan.virtual_ips if family == "ipv4" else "")
        yield from _owned(plan, "TO")


def _owned(plan: Plan, to: str) -> Iterator[Rule]:
    """To another chain, if the packet is of somebody whose packets are captured."""
    for interface in plan.interfaces_exclude:
        yield Rule(do=Return(), protocol=None, goes_out=interface)
    for uid in (*plan.proxy_uids, *plan.uids_exclude):
        yield Rule(do=Return(), protocol=None, uid=uid)
    for gid in (*plan.proxy_gids, *plan.gids_exclude):
        yield Rule(do=Return(), protocol=None, gid=gid)
    jump = Jump(PREFIX + to)
    if not plan.uids and not plan.gids:
        yield Rule(do=jump, protocol=None)
    for uid in plan.uids or ():
        yield Rule(do=jump, protocol=None, uid=uid)
    for gid in plan.gids or ():
        yield Rule(do=jump, protocol=None, gid=gid)


def _to(plan: Plan, family: Family) -> Iterator[Rule]:
    if family == "ipv4":
        yield Rule(do=Redirect(plan.envoy_port), destination=plan.virtual_ips)
    for port in plan.ports_exclude:
        yield Rule(do=Return(), ports=(port, port))
    for network in plan.of(family, plan.networks_exclude):
        yield Rule(do=Return(), destination=network)
    capture = Redirect(plan.envoy_port)
    for port in plan.ports:
        yield Rule(do=capture, ports=(port, port))
    for network in plan.of(family, plan.networks):
        yield Rule(do=capture, destination="" if network in ALL else network)


def _questions(plan: Plan, family: Family, protocols: Iterable[Protocol], do: Action) -> Iterator[Rule]:
    for server in plan.of(family, plan.nameservers):
        for protocol in protocols:
            yield Rule(do=do, protocol=protocol, ports=_DNS, destination="" if server in ALL else server)


def _inbound(plan: Plan, *, redirected: bool, outbound: bool) -> Iterator[Rule]:
    yield Rule(do=Return(), first=False)
    for interface in plan.interfaces_exclude:
        yield Rule(do=Return(), came_in=interface)
    for interface in plan.virtual_interfaces:
        if outbound:
            yield Rule(do=Jump(f"{PREFIX}TO"), came_in=interface, local=False)
        yield Rule(do=Return(), came_in=interface)
    if redirected:
        # What is only passing through, to a container or another host, is not for this host's Envoy.
        yield Rule(do=Return(), local=False)
        yield Rule(do=Jump(f"{PREFIX}PORTS"))


def _ports(plan: Plan, do: Action) -> Iterator[Rule]:
    never = ((SSH, SSH), OWN_PORTS, *((port, port) for port in plan.inbound_exclude))
    yield from (Rule(do=Return(), ports=each) for each in never)
    if plan.inbound is None:
        yield Rule(do=do)
    else:
        yield from (Rule(do=do, ports=(port, port)) for port in plan.inbound)
