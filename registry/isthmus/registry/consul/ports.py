"""The logical ports of a service, and where its instances listen. Pure.

An instance has one port, or in Consul's later releases several with names. What callers name is the logical port
(docs/architecture.md); README.md beside this file has the rules by which its number and protocol are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from isthmus.registry.address import is_host_name
from isthmus.registry.consul.answers import Entry, ServiceEntry
from isthmus.registry.conventions import Said, protocol_of_port_name
from isthmus.registry.model import Port, Protocol

DYNAMIC_PORTS_FROM = 20_000
"""Ports from here on are handed out at random (Nomad: 20000-32000, Linux and Docker: from 32768): never a service's own."""

Remarks = list[tuple[str, str]]
"""What was said and cannot be followed, as (where, reason)."""


class Listening(msgspec.Struct, frozen=True):
    """The ports of one instance by name. `main` is the name, perhaps empty, of the one that is meant where none is named."""

    main: str
    numbers: Mapping[str, int]

    @property
    def number(self) -> int:
        return self.numbers[self.main]


def listening(service: ServiceEntry) -> Listening:
    """Where an instance listens: port 0 with a socket, whose path is its address.

    Raises:
        ValueError: a port cannot be called, or one of several has no name of its own.

    """
    if service.socket_path:
        return Listening("", {"": 0})
    if not service.ports:
        return Listening("", {"": _callable(service.port)})
    numbers = {p.name: _callable(p.port) for p in service.ports}
    if len(numbers) < len(service.ports) or not all(map(is_host_name, numbers)):
        raise ValueError(f"Ports {', '.join(repr(p.name) for p in service.ports)}: each needs a name of its own")
    main = next((p.name for p in service.ports if p.default), service.ports[0].name)
    return Listening(main, numbers)


def _callable(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} cannot be called: expected 1 to 65535, or a SocketPath")
    return port


def logical_ports(
    entries: Sequence[tuple[Entry, Listening, Said]], default_protocol: Protocol, default_port: int
) -> tuple[tuple[Port, ...], Remarks]:
    """The ports that callers name, the main one first; at least that one. Where instances disagree the first one, by id, wins."""
    numbers, protocols, remarks = _declared([(e, said) for e, _, said in entries])
    # What another tool's convention reads counts where nobody says it in so many words.
    protocols = protocols or [said.protocol for _, _, said in entries if said.protocol is not None]
    exposed = next((said.exposed for _, _, said in entries if said.exposed), 0)
    remarks += _disagreement(entries[0][0].service.name, "port", [str(n) for n in numbers])
    remarks += _disagreement(entries[0][0].service.name, "protocol", [p.value for p in protocols])
    name = next((x.main for _, x, _ in entries if x.main), "")
    protocol = protocols[0] if protocols else protocol_of_port_name(name) or default_protocol
    number = numbers[0] if numbers else _shared(x.number for _, x, _ in entries) or exposed or default_port
    ports = [Port(name or protocol.value, number, protocol)]
    for other in sorted({n for _, x, _ in entries for n in x.numbers} - {"", name}):
        where = f"service {entries[0][0].service.name}, port {other}"
        shared = _shared(x.numbers[other] for _, x, _ in entries if other in x.numbers)
        if not shared:
            remarks.append((where, "left out: its instances share no number, so callers have none to name"))
        elif taken := next((p.name for p in ports if p.number == shared), ""):
            remarks.append((where, f"left out: its number, {shared}, is also that of port {taken}"))
        else:
            ports.append(Port(other, shared, protocol_of_port_name(other) or default_protocol))
    return tuple(ports), remarks


def instance_ports(ports: Sequence[Port], own: Listening, number: int) -> Mapping[str, int]:
    """The instance's port numbers by the service's port names. `number`, unless 0, is its main port's at the address chosen."""
    main = own.main or ports[0].name
    numbers = {**own.numbers, main: number or own.number}
    return {p.name: numbers[p.name] for p in sorted(ports) if p.name in numbers}


def _declared(entries: Sequence[tuple[Entry, Said]]) -> tuple[list[int], list[Protocol], Remarks]:
    """What Meta `port`, and Meta or a tag `protocol`, say of each instance that says so."""
    numbers: list[int] = []
    protocols: list[Protocol] = []
    remarks: Remarks = []
    for entry, said in entries:
        meta = entry.service.meta or {}
        if "port" in meta:
            text = meta["port"]
            if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
                numbers.append(int(text))
            else:
                remarks.append(
                    (f"{entry.where}, meta port", f"{text!r} is not a port number, 1 to 65535; not followed")
                )
        if text := said.labels.get("protocol", "").lower():
            try:
                protocols.append(Protocol(text))
            except ValueError:
                known = ", ".join(p.value for p in Protocol)
                remarks.append((f"{entry.where}, protocol", f"{text!r} is none of {known}; taken for tcp"))
                protocols.append(Protocol.TCP)
    return numbers, protocols, remarks


def _shared(numbers: Iterable[int]) -> int:
    """The number that all who have a port have, unless it was handed out at random; else 0."""
    shared = set(numbers) - {0}
    return shared.pop() if len(shared) == 1 and max(shared) < DYNAMIC_PORTS_FROM else 0


def _disagreement(service: str, subject: str, said: Sequence[str]) -> Remarks:
    others = sorted(set(said) - set(said[:1]))
    if not others:
        return []
    return [(f"service {service}, meta {subject}", f"instances disagree: {said[0]} is used, not {', '.join(others)}")]
