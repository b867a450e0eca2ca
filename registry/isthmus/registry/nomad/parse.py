"""Nomad's registrations into services. Pure: what a registration means for callers is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.registry.address import is_host_name, parse_address
from isthmus.registry.conventions import Convention, Said, protocol_of_port_name, read, shape
from isthmus.registry.model import Instance, Locality, Origin, Port, Protocol, Quarantined, Service, ServiceKey
from isthmus.registry.nomad.answers import Registration, ServiceName
from isthmus.registry.nomad.health import Evidence, judge
from isthmus.registry.reuse import once, once_mapping

DYNAMIC_PORTS_FROM = 20_000
"""Ports from here on are handed out at random (Nomad: 20000-32000, Linux and Docker: from 32768): never a service's own."""

READ = ("port", "protocol", "weight")
"""Keys of `key=value` tags that are read without any convention: Nomad knows no other place for them."""


class Rules(msgspec.Struct, frozen=True):
    """What holds for every service of one origin (`NomadConfig`)."""

    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    region: str = ""
    conventions: tuple[Convention, ...] = ("k=v",)


class Listed(msgspec.Struct, frozen=True):
    """One registration with all that is known about its instance."""

    registration: Registration
    evidence: Evidence


class Parsed(msgspec.Struct, frozen=True):
    """What became of one service; `service` is None when nothing of it can be called."""

    service: Service | None
    quarantined: tuple[Quarantined, ...] = ()


def cannot_be_asked_for(service: ServiceName) -> str:
    """Why no request can be about the service of this name, or empty: such a path would be about something else."""
    if {"", ".", ".."} & set(service.name.split("/")):
        return f"the name {service.name!r} cannot be part of a URL's path, and so not be asked for"
    return ""


def key_of(service: ServiceName) -> ServiceKey:
    """The identity of a service over all registries."""
    return ServiceKey(service.namespace, service.name)


def parse_service(origin: Origin, name: ServiceName, listed: Sequence[Listed], rules: Rules, now: float) -> Parsed:
    """All registrations of one service, as one service, at the monotonic second `now`."""
    quarantined: list[Quarantined] = []
    usable: list[tuple[Listed, str]] = []
    for one in sorted(listed, key=lambda one: one.registration.id):
        try:
            usable.append((one, _address(one.registration)))
        except ValueError as e:
            quarantined.append(Quarantined(origin.name, one.registration.where, str(e)))
    if not usable:
        return Parsed(None, tuple(sorted(quarantined)))
    saids = {one.registration.id: _said(one, rules) for one, _ in usable}
    port, remarks = _logical_port(name, [one for one, _ in usable], saids, rules)
    instances: list[Instance] = []
    for one, address in usable:
        said = saids[one.registration.id]
        weight, remark = _weight(one.registration, said)
        remarks += remark
        remarks += [(f"{one.registration.where}, {about}", reason) for about, reason in said.remarks]
        health, reason = judge(one.evidence, now)
        instance = Instance(
            id=one.registration.id,
            origin=origin.name,
            address=address,
            ports=once_mapping({port.name: one.registration.port}),
            health=health,
            weight=weight,
            locality=once(_locality(one, rules.region)),
            labels=once_mapping(said.labels),
            provenance=_provenance(one, reason, said),
        )
        instances.append(instance)
    service = Service(key_of(name), (port,), tuple(instances), _hostnames(name))
    service, said_of_ports = shape(service, port.name, saids, DYNAMIC_PORTS_FROM)
    remarks += [(f"{name}, {about}", reason) for about, reason in said_of_ports]
    quarantined += [Quarantined(origin.name, where, reason) for where, reason in remarks]
    return Parsed(service, tuple(sorted(quarantined)))


def _address(registration: Registration) -> str:
    address = registration.address
    if not 1 <= registration.port <= 65535:
        raise ValueError(f"port {registration.port} cannot be called: expected 1 to 65535 (does its `port` exist?)")
    if not address:
        raise ValueError("it has no address; see address_mode of its service block")
    return parse_address(address)


def _locality(one: Listed, region: str) -> Locality:
    """Region; node meta `zone`, else the datacenter; node meta `rack`."""
    meta = (one.evidence.node.meta if one.evidence.node else None) or {}
    return Locality(region, meta.get("zone") or one.registration.datacenter, meta.get("rack", ""))


def _said(one: Listed, rules: Rules) -> Said:
    """By tags, for Nomad has no metadata; `canary` marks a canary that is not promoted yet."""
    registration, alloc = one.registration, one.evidence.alloc
    said = read(
        rules.conventions, registration.tags or (), {}, id_=registration.id, port=registration.port, always=READ
    )
    if alloc is not None and alloc.deployment is not None and alloc.deployment.canary and "canary" not in said.labels:
        return msgspec.structs.replace(said, labels=dict(sorted({**said.labels, "canary": "true"}.items())))
    return said


def _provenance(one: Listed, reason: str, by: Said) -> Mapping[str, str]:
    registration, alloc, node = one.registration, one.evidence.alloc, one.evidence.node
    said = {
        "job": registration.job,
        "group": alloc.group if alloc else "",
        "allocation": registration.alloc,
        "node": (node.name if node else "") or (alloc.node_name if alloc else "") or registration.node,
        "datacenter": registration.datacenter,
        "health": reason,
        "conventions": ", ".join(by.applied),
    }
    return {k: v for k, v in said.items() if v}


def _weight(registration: Registration, said: Said) -> tuple[int, list[tuple[str, str]]]:
    text = said.labels.get("weight")
    if text is None or said.weight is not None:
        return 1, []
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return min(max(int(text), 1), 128), []
    return 1, [(f"{registration.where}, tag weight", f"{text[:100]!r} is not a whole number, 1 to 128; not followed")]


def _logical_port(
    name: ServiceName, listed: Sequence[Listed], saids: Mapping[str, Said], rules: Rules
) -> tuple[Port, list[tuple[str, str]]]:
    """The one port that callers name, and what was said about it that cannot be followed, as (where, reason).

    Number: a tag `port=...`; else the port that all instances share, unless it is a random one; else the default. Protocol: a tag
    `protocol=...`, else what a convention reads, else the prefix of the port's name in the job, else the default. Where instances
    disagree the first one, by id, that says so wins.
    """
    remarks: list[tuple[str, str]] = []
    numbers: list[int] = []
    protocols: list[Protocol] = []
    otherwise: list[Protocol] = []
    for one in listed:
        registration, said = one.registration, saids[one.registration.id]
        if (text := said.labels.get("port")) is not None:
            if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
                numbers.append(int(text))
            else:
                reason = f"{text[:100]!r} is not a port number, 1 to 65535; not followed"
                remarks.append((f"{registration.where}, tag port", reason))
        if text := said.labels.get("protocol", "").lower():
            try:
                protocols.append(Protocol(text))
            except ValueError:
                known = ", ".join(p.value for p in Protocol)
                reason = f"{text[:100]!r} is none of {known}; taken for tcp"
                remarks.append((f"{registration.where}, tag protocol", reason))
                protocols.append(Protocol.TCP)
        elif told := said.protocol or _by_port_name(one):
            otherwise.append(told)
    protocols = protocols or otherwise
    remarks += _disagreement(name, "port", [str(n) for n in numbers])
    remarks += _disagreement(name, "protocol", [p.value for p in protocols])
    protocol = protocols[0] if protocols else rules.default_protocol
    shared = {one.registration.port for one in listed}
    if numbers:
        number = numbers[0]
    else:
        number = shared.pop() if len(shared) == 1 and max(shared) < DYNAMIC_PORTS_FROM else rules.default_port
    return Port(protocol.value, number, protocol), remarks


def _by_port_name(one: Listed) -> Protocol | None:
    alloc, spec = one.evidence.alloc, one.evidence.spec
    if alloc is None or spec is None:
        return None
    return protocol_of_port_name(spec.port_of(alloc.group, one.registration.service))


def _disagreement(name: ServiceName, subject: str, said: Sequence[str]) -> list[tuple[str, str]]:
    others = sorted(set(said) - set(said[:1]))
    if not others:
        return []
    return [(f"{name}, tag {subject}", f"instances disagree: {said[0]} is used, not {', '.join(others)}")]


def _hostnames(name: ServiceName) -> frozenset[str]:
    """Names made like Consul's, for Nomad has no DNS of its own; the short one is the default namespace's."""
    low, namespace = name.name.lower(), name.namespace.lower()
    names = {f"{low}.{namespace}.service.nomad"} | ({f"{low}.service.nomad"} if namespace == "default" else set())
    return frozenset(n for n in names if is_host_name(n))
