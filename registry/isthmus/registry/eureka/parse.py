"""Eureka's records into services. Pure: what a record means for callers is decided here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from isthmus.registry.address import is_host_name, parse_address
from isthmus.registry.conventions import PORTS, Convention, Said, labels_of, read, shape
from isthmus.registry.eureka.answers import Record
from isthmus.registry.model import Health, Instance, Locality, Origin, Port, Protocol, Quarantined, Service, ServiceKey
from isthmus.registry.reuse import once, once_mapping

DYNAMIC_PORTS_FROM = 20_000
"""Ports from here on are handed out at random (Nomad: 20000-32000, Linux and Docker: from 32768): never a service's own."""

LEAST = 10
"""Percent of its weight that an instance keeps, however old its last renewal is."""

SECURE = "https"
"""Name of the logical port that stands for Eureka's secure ports."""

_HEALTH: Mapping[str, Health] = {
    "UP": Health.HEALTHY,
    "OUT_OF_SERVICE": Health.DRAINING,
    "STARTING": Health.UNHEALTHY,
    "DOWN": Health.UNHEALTHY,
    "UNKNOWN": Health.UNHEALTHY,
}


class Rules(msgspec.Struct, frozen=True):
    """What holds for every service of one origin (`EurekaConfig`)."""

    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    default_secure_port: int = 443
    prefer: Literal["ip", "hostname"] = "ip"
    region: str = ""
    taper: bool = True
    conventions: tuple[Convention, ...] = ()


class Sighting(msgspec.Struct, frozen=True):
    """A record, and how sure we are that the instance lives.

    `overdue` is for how many of its lease's durations it has not renewed; `silent`, that the feed missed its heartbeats and the
    server knows of none either.
    """

    record: Record
    overdue: float = 0.0
    silent: bool = False


class Parsed(msgspec.Struct, frozen=True):
    """What became of one application. `service` is None when nothing of it can be called."""

    service: Service | None
    quarantined: tuple[Quarantined, ...] = ()


def where(record: Record) -> str:
    """How an operator finds a record."""
    return f"application {record.app}, instance {record.id}"


def parse_service(origin: Origin, app: str, sightings: Iterable[Sighting], rules: Rules) -> Parsed:
    """All records of one application, as one service."""
    quarantined: list[Quarantined] = []
    usable: list[tuple[Sighting, str]] = []
    for sighting in sorted(sightings, key=lambda s: s.record.id):
        try:
            usable.append((sighting, _address(sighting.record, rules)))
        except ValueError as e:
            quarantined.append(Quarantined(origin.name, where(sighting.record), str(e)))
    if not usable:
        return Parsed(None, tuple(sorted(quarantined)))
    records = [s.record for s, _ in usable]
    saids = {r.id: _said(r, rules) for r in records if rules.conventions or PORTS in r.metadata}
    ports, remarks = _logical_ports(app, records, saids, rules)
    instances = []
    for sighting, address in usable:
        weight, remark = _weight(sighting.record)
        remarks += remark
        instances.append(
            Instance(
                id=sighting.record.id,
                origin=origin.name,
                address=address,
                ports=once_mapping(_numbers(sighting.record, ports)),
                health=_health(sighting),
                weight=weight,
                locality=once(Locality(rules.region, sighting.record.zone)),
                labels=labels_of(sighting.record.metadata),
                provenance=_provenance(sighting, saids.get(sighting.record.id)),
                taper=taper(sighting.overdue),
            )
        )
    service = Service(
        key=ServiceKey("default", app.lower()),
        ports=ports,
        instances=tuple(instances),
        hostnames=_hostnames(app, records),
    )
    service, further = shape(service, ports[0].name, saids, DYNAMIC_PORTS_FROM)
    remarks += [(f"application {app}, {about}", reason) for about, reason in further]
    quarantined += [Quarantined(origin.name, at, reason) for at, reason in remarks]
    return Parsed(service, tuple(sorted(quarantined)))


def _said(record: Record, rules: Rules) -> Said:
    """By conventions, which are not asked for what Eureka's own fields say, or what is read from the metadata anyway."""
    own = ("port", "protocol", "secure", "weight", "zone")
    return read(rules.conventions, (), {k: v for k, v in record.metadata.items() if k not in own}, port=record.port)


def taper(overdue: float) -> int:
    """Percent of its weight that an instance gets which has not renewed for `overdue` durations of its lease.

    All of it up to one; from there it falls, and from two on it is the least. Never nothing: age alone proves no death.
    """
    return max(LEAST, round(100 * min(1.0, 2.0 - overdue)))


def _numbers(record: Record, ports: Sequence[Port]) -> Mapping[str, int]:
    by_name = {p.name: record.secure_port if p.name == SECURE else record.port for p in ports}
    return {name: number for name, number in sorted(by_name.items()) if number}


def _health(sighting: Sighting) -> Health:
    """`status` is what the server made of all it knows. An operator's OUT_OF_SERVICE is respected while it has not arrived."""
    record = sighting.record
    health = _HEALTH.get(record.status, Health.UNHEALTHY)
    if health is not Health.HEALTHY:
        return health  # a renewal never lifts what the instance says of itself
    if record.overridden == "OUT_OF_SERVICE":
        return Health.DRAINING
    if sighting.silent:
        return Health.UNHEALTHY
    return Health.HEALTHY


def _address(record: Record, rules: Rules) -> str:
    for port in (record.port, record.secure_port):
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} cannot be called: expected 1 to 65535")
    if not record.port and not record.secure_port:
        raise ValueError("neither the port nor the secure port is enabled")
    either = (record.host, record.ip) if rules.prefer == "hostname" else (record.ip, record.host)
    address = either[0] or either[1]
    if not address:
        raise ValueError("neither an IP address nor a host name")
    return parse_address(address)


def _weight(record: Record) -> tuple[int, list[tuple[str, str]]]:
    """Metadata `weight`, as Spring Cloud LoadBalancer reads it."""
    said = record.metadata.get("weight", "1")
    if said.isascii() and said.isdigit() and len(said) < 10:
        return min(max(int(said), 1), 128), []
    return 1, [(f"{where(record)}, metadata weight", f"{said[:80]!r} is not a whole number; taken for 1")]


def _provenance(sighting: Sighting, by: Said | None) -> Mapping[str, str]:
    record = sighting.record
    said = {
        "application": record.app,
        "host_name": record.host,
        "status": record.status,
        "overridden_status": "" if record.overridden == "UNKNOWN" else record.overridden,
        "management_port": record.metadata.get("management.port", ""),
        "renewal": "missed" if sighting.silent else "overdue" if sighting.overdue > 1 else "",
        "conventions": ", ".join(by.applied) if by else "",
    }
    return {k: v for k, v in said.items() if v}


def _logical_ports(
    app: str, records: Sequence[Record], saids: Mapping[str, Said], rules: Rules
) -> tuple[tuple[Port, ...], list[tuple[str, str]]]:
    """The ports that callers name, and what was said about them that cannot be followed, as (where, reason).

    One stands for the instances' ports, and one, called https, for their secure ports. Numbers: metadata `port` for the first;
    else the one that all instances share, unless it is a random one; else the default. Protocol of the first: metadata
    `protocol`, else what a convention reads, else the default. Where instances disagree the first one, by id, that says so wins.
    """
    remarks: list[tuple[str, str]] = []
    numbers: list[int] = []
    protocols: list[Protocol] = []
    for record in records:
        if said := record.metadata.get("port", ""):
            if said.isascii() and said.isdigit() and len(said) <= 5 and 1 <= int(said) <= 65535:
                numbers.append(int(said))
            else:
                reason = f"{said[:80]!r} is not a port number, 1 to 65535; not followed"
                remarks.append((f"{where(record)}, metadata port", reason))
        if said := record.metadata.get("protocol", "").lower():
            try:
                protocols.append(Protocol(said))
            except ValueError:
                known = ", ".join(p.value for p in Protocol)
                reason = f"{said[:80]!r} is none of {known}; taken for tcp"
                remarks.append((f"{where(record)}, metadata protocol", reason))
                protocols.append(Protocol.TCP)
    protocols = protocols or [said.protocol for said in saids.values() if said.protocol is not None]
    remarks += [(f"{where(r)}, {about}", why) for r in records if r.id in saids for about, why in saids[r.id].remarks]
    remarks += _disagreement(app, "port", [str(n) for n in numbers])
    remarks += _disagreement(app, "protocol", [p.value for p in protocols])
    ports: list[Port] = []
    if any(r.port for r in records):
        protocol = protocols[0] if protocols else rules.default_protocol
        # The secure port has a name of its own; a plain port that speaks TLS all the same is told apart by "tls".
        name = protocol.value if protocol is not Protocol.HTTPS else Protocol.TLS.value
        number = numbers[0] if numbers else _shared((r.port for r in records), rules.default_port)
        ports.append(Port(name, number, protocol))
    if any(r.secure_port for r in records):
        number = _shared((r.secure_port for r in records), rules.default_secure_port)
        taken = {p.number for p in ports}
        if number in taken:
            number = rules.default_secure_port
        if number not in taken:
            ports.append(Port(SECURE, number, Protocol.HTTPS))
        else:
            remarks.append(
                (
                    f"application {app}",
                    f"its ports and its secure ports would both be called {number}; the secure ones are left out",
                )
            )
    return tuple(sorted(ports, key=lambda p: p.number)), remarks


def _shared(ports: Iterable[int], default: int) -> int:
    shared = {p for p in ports if p}
    number = max(shared)
    return number if len(shared) == 1 and number < DYNAMIC_PORTS_FROM else default


def _disagreement(app: str, subject: str, said: Sequence[str]) -> list[tuple[str, str]]:
    others = sorted(set(said) - set(said[:1]))
    if not others:
        return []
    return [
        (f"application {app}, metadata {subject}", f"instances disagree: {said[0]} is used, not {', '.join(others)}")
    ]


def _hostnames(app: str, records: Iterable[Record]) -> frozenset[str]:
    """What callers of Eureka call it by: the application's name and its VIP addresses, which may end in a port."""
    said = {app} | {v for r in records for v in (*r.vips, *r.secure_vips)}
    names = {re.sub(r":\d{1,5}$", "", name).lower() for name in said}
    return frozenset(name for name in names if is_host_name(name) and re.search("[a-z]", name))
