"""Nomad's registrations into services. Pure: what a registration means for callers is decided here and nowhere else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.registry.model import Instance, Locality, Origin, Port, Protocol, Quarantined, Service, ServiceKey
from isthmus.registry.nomad.answers import Registration, ServiceName
from isthmus.registry.nomad.health import Evidence, judge

DYNAMIC_PORTS_FROM = 20_000
"""Ports from here on are handed out at random (Nomad: 20000-32000, Linux and Docker: from 32768): never a service's own."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


class Rules(msgspec.Struct, frozen=True):
    """What holds for every service of one origin (`NomadConfig`)."""

    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    region: str = ""


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
    port, remarks = _logical_port(name, [one.registration for one, _ in usable], rules)
    instances: list[Instance] = []
    for one, address in usable:
        weight, remark = _weight(one.registration)
        remarks += remark
        health, reason = judge(one.evidence, now)
        instance = Instance(
            id=one.registration.id,
            origin=origin.name,
            address=address,
            ports={port.name: one.registration.port},
            health=health,
            weight=weight,
            locality=_locality(one, rules.region),
            labels=_labels(one),
            provenance=_provenance(one, reason),
        )
        instances.append(instance)
    quarantined += [Quarantined(origin.name, where, reason) for where, reason in remarks]
    service = Service(key_of(name), (port,), tuple(instances), _hostnames(name))
    return Parsed(service, tuple(sorted(quarantined)))


def _address(registration: Registration) -> str:
    address = registration.address
    if not 1 <= registration.port <= 65535:
        raise ValueError(f"port {registration.port} cannot be called: expected 1 to 65535 (does its `port` exist?)")
    if not address:
        raise ValueError("it has no address; see address_mode of its service block")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        # All digits and dots is an address with a slip in it, never a name that would resolve.
        if not _HOST_NAME.fullmatch(address) or not re.search("[A-Za-z]", address):
            raise ValueError(f"address {address[:300]!r} is neither an IP address nor a host name") from None
        return address
    if ip.is_unspecified or ip.is_multicast or "%" in address:
        raise ValueError(f"address {address} cannot be called from elsewhere")
    return str(ip)


def _locality(one: Listed, region: str) -> Locality:
    """Region; node meta `zone`, else the datacenter; node meta `rack`."""
    meta = (one.evidence.node.meta if one.evidence.node else None) or {}
    return Locality(region, meta.get("zone") or one.registration.datacenter, meta.get("rack", ""))


def _labels(one: Listed) -> Mapping[str, str]:
    """`k=v` tags; plain tags as one label `tags`, sorted; `canary` for a canary that is not promoted yet."""
    labels: dict[str, str] = {}
    plain: set[str] = set()
    for tag in sorted(one.registration.tags or ()):
        key, equals, value = tag.partition("=")
        if key and equals:
            labels[key] = value
        else:
            plain.add(tag)
    if plain:
        labels["tags"] = ",".join(sorted(plain))
    alloc = one.evidence.alloc
    if alloc is not None and alloc.deployment is not None and alloc.deployment.canary:
        labels.setdefault("canary", "true")
    return dict(sorted(labels.items()))


def _provenance(one: Listed, reason: str) -> Mapping[str, str]:
    registration, alloc, node = one.registration, one.evidence.alloc, one.evidence.node
    said = {
        "namespace": registration.namespace,
        "job": registration.job,
        "group": alloc.group if alloc else "",
        "allocation": registration.alloc,
        "node": (node.name if node else "") or (alloc.node_name if alloc else "") or registration.node,
        "datacenter": registration.datacenter,
        "health": reason,
    }
    return {k: v for k, v in said.items() if v}


def _weight(registration: Registration) -> tuple[int, list[tuple[str, str]]]:
    said = _tag(registration, "weight")
    if said is None:
        return 1, []
    if said.isascii() and said.isdigit() and len(said) <= 9:
        return min(max(int(said), 1), 128), []
    return 1, [(f"{registration.where}, tag weight", f"{said[:100]!r} is not a whole number, 1 to 128; not followed")]


def _tag(registration: Registration, key: str) -> str | None:
    """The value of the tag `key=value`; the last one, in their order, as among the labels."""
    values = sorted(t for t in registration.tags or () if t.startswith(f"{key}="))
    return values[-1].partition("=")[2] if values else None


def _logical_port(
    name: ServiceName, registrations: Sequence[Registration], rules: Rules
) -> tuple[Port, list[tuple[str, str]]]:
    """The one port that callers name, and what was said about it that cannot be followed, as (where, reason).

    Number: a tag `port=...`; else the port that all instances share, unless it is a random one; else the default. Protocol: a tag
    `protocol=...`, else the default. Where instances disagree the first one, by id, that says so wins.
    """
    remarks: list[tuple[str, str]] = []
    numbers: list[int] = []
    protocols: list[Protocol] = []
    for registration in registrations:
        if (said := _tag(registration, "port")) is not None:
            if said.isascii() and said.isdigit() and len(said) <= 5 and 1 <= int(said) <= 65535:
                numbers.append(int(said))
            else:
                reason = f"{said[:100]!r} is not a port number, 1 to 65535; not followed"
                remarks.append((f"{registration.where}, tag port", reason))
        if said := (_tag(registration, "protocol") or "").lower():
            try:
                protocols.append(Protocol(said))
            except ValueError:
                known = ", ".join(p.value for p in Protocol)
                reason = f"{said[:100]!r} is none of {known}; taken for tcp"
                remarks.append((f"{registration.where}, tag protocol", reason))
                protocols.append(Protocol.TCP)
    remarks += _disagreement(name, "port", [str(n) for n in numbers])
    remarks += _disagreement(name, "protocol", [p.value for p in protocols])
    protocol = protocols[0] if protocols else rules.default_protocol
    shared = {r.port for r in registrations}
    if numbers:
        number = numbers[0]
    else:
        number = shared.pop() if len(shared) == 1 and max(shared) < DYNAMIC_PORTS_FROM else rules.default_port
    return Port(protocol.value, number, protocol), remarks


def _disagreement(name: ServiceName, subject: str, said: Sequence[str]) -> list[tuple[str, str]]:
    others = sorted(set(said) - set(said[:1]))
    if not others:
        return []
    return [(f"{name}, tag {subject}", f"instances disagree: {said[0]} is used, not {', '.join(others)}")]


def _hostnames(name: ServiceName) -> frozenset[str]:
    """Names made like Consul's, for Nomad has no DNS of its own; the short one is the default namespace's."""
    low, namespace = name.name.lower(), name.namespace.lower()
    names = {f"{low}.{namespace}.service.nomad"} | ({f"{low}.service.nomad"} if namespace == "default" else set())
    return frozenset(n for n in names if _HOST_NAME.fullmatch(n))
