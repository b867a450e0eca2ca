"""Consul's entries into services. Pure: what an entry means for callers is decided here and nowhere else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from isthmus.registry.consul.answers import Entry, Listing, ServiceEntry, Weights
from isthmus.registry.model import Health, Instance, Locality, Origin, Port, Protocol, Quarantined, Service, ServiceKey

DYNAMIC_PORTS_FROM = 20_000
"""Ports from here on are handed out at random (Nomad: 20000-32000, Linux and Docker: from 32768): never a service's own."""

MAINTENANCE = ("_node_maintenance", "_service_maintenance:")
"""CheckIDs that `consul maint` registers, for a node and, followed by the service's id, for a service."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


class Rules(msgspec.Struct, frozen=True):
    """What holds for every service of one origin (`ConsulConfig`)."""

    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    namespace: str = "default"


class Parsed(msgspec.Struct, frozen=True):
    """What became of one service. `service` is None when nothing of it can be called: no entry, only proxies, all quarantined.

    `nodes` are the nodes that it has instances on: their checks are its checks too.
    """

    service: Service | None
    nodes: frozenset[str] = frozenset()
    quarantined: tuple[Quarantined, ...] = ()


def cannot_be_asked_for(name: str) -> str:
    """Why no request can be about the service of this name, or empty: such a path would be about something else."""
    if {"", ".", ".."} & set(name.split("/")):
        return f"the name {name!r} cannot be part of a URL's path, and so not be asked for"
    return ""


def parse_service(origin: Origin, name: str, listing: Listing, rules: Rules) -> Parsed:
    """All entries of one service name, as one service."""
    quarantined = [Quarantined(origin.name, where, reason) for where, reason in listing.unreadable]
    entries = sorted(
        (e for e in listing.entries if not e.service.kind),  # proxies and gateways stand for other services
        key=instance_id,
    )
    usable: dict[str, tuple[Entry, str]] = {}
    for entry in entries:
        try:
            address = _address(entry)
            if instance_id(entry) in usable:
                raise ValueError("another instance has the same node and id")  # noqa: TRY301
            usable[instance_id(entry)] = (entry, address)
        except ValueError as e:
            quarantined.append(Quarantined(origin.name, entry.where, str(e)))
    nodes = frozenset(e.node.node for e in entries)
    if not usable:
        return Parsed(None, nodes, tuple(sorted(quarantined)))

    port, remarks = _logical_port([e for e, _ in usable.values()], rules)
    quarantined += [Quarantined(origin.name, where, reason) for where, reason in remarks]
    instances = tuple(
        _instance(origin, id_, entry, address, port.name) for id_, (entry, address) in sorted(usable.items())
    )
    first = next(iter(usable.values()))[0]
    service = Service(
        key=ServiceKey(first.service.namespace or rules.namespace, name),
        ports=(port,),
        instances=instances,
        hostnames=_hostnames(name, (e.node.datacenter for e, _ in usable.values())),
    )
    return Parsed(service, nodes, tuple(sorted(quarantined)))


def instance_id(entry: Entry) -> str:
    """What identifies an instance within its service: a service id is unique on its node only."""
    return f"{entry.node.node}/{entry.service.id or entry.service.name}"


def _instance(origin: Origin, id_: str, entry: Entry, address: str, port_name: str) -> Instance:
    health, weight = _health(entry)
    return Instance(
        id=id_,
        origin=origin.name,
        address=address,
        ports={port_name: entry.service.port},
        health=health,
        weight=weight,
        locality=_locality(entry),
        labels=_labels(entry.service),
        provenance=_provenance(entry),
    )


def _address(entry: Entry) -> str:
    service = entry.service
    if service.socket_path:
        if not service.socket_path.startswith("/"):
            raise ValueError(f"SocketPath {service.socket_path!r} is not an absolute path")
        return f"unix://{service.socket_path}"
    if not 1 <= service.port <= 65535:
        raise ValueError(f"port {service.port} cannot be called: expected 1 to 65535, or a SocketPath")
    address = service.address or entry.node.address
    if not address:
        raise ValueError("neither the service nor its node has an address")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        # All digits and dots is an address with a slip in it, never a name that would resolve.
        if not _HOST_NAME.fullmatch(address) or not re.search("[A-Za-z]", address):
            raise ValueError(f"address {address!r} is neither an IP address nor a host name") from None
        return address
    if ip.is_unspecified or ip.is_multicast or "%" in address:
        raise ValueError(f"address {address} cannot be called from elsewhere")
    return str(ip)


def _health(entry: Entry) -> tuple[Health, int]:
    """The worst of the node's checks and the service's own, in Consul's order: maintenance, critical, warning, passing."""
    checks = [c for c in entry.checks or () if c.service_id in ("", entry.service.id)]
    weights = entry.service.weights or Weights()
    statuses = {c.status for c in checks}
    weight = weights.warning if "warning" in statuses else weights.passing
    if any(c.check_id.startswith(MAINTENANCE) for c in checks):
        health = Health.DRAINING
    elif statuses - {"passing", "warning"} or weight <= 0:
        health = Health.UNHEALTHY
    else:
        health = Health.HEALTHY
    return health, min(max(weight, 1), 128)


def _locality(entry: Entry) -> Locality:
    meta = entry.node.meta or {}
    for said in (entry.service.locality, entry.node.locality):
        if said is not None and (said.region or said.zone):
            return Locality(said.region or entry.node.datacenter, said.zone)
    return Locality(meta.get("region") or entry.node.datacenter, meta.get("zone", ""))


def _labels(service: ServiceEntry) -> Mapping[str, str]:
    """`k=v` tags, then Meta, which wins; plain tags as one label `tags`, sorted, for Consul's order changes between reads."""
    labels: dict[str, str] = {}
    plain: set[str] = set()
    for tag in sorted(service.tags or ()):
        key, equals, value = tag.partition("=")
        if key and equals:
            labels[key] = value
        else:
            plain.add(tag)
    if plain:
        labels["tags"] = ",".join(sorted(plain))
    labels.update(service.meta or {})
    return dict(sorted(labels.items()))


def _provenance(entry: Entry) -> Mapping[str, str]:
    failing = sorted({c.name or c.check_id for c in entry.checks or () if c.status != "passing"})
    said = {
        "node": entry.node.node,
        "datacenter": entry.node.datacenter,
        "service_id": entry.service.id,
        "partition": entry.service.partition or entry.node.partition,
        "peer": entry.service.peer_name or entry.node.peer_name,
        "failing_checks": ", ".join(failing)[:200],
    }
    return {k: v for k, v in said.items() if v}


def _logical_port(entries: Sequence[Entry], rules: Rules) -> tuple[Port, list[tuple[str, str]]]:
    """The one port that callers name, and what was said about it that cannot be followed, as (where, reason).

    Number: Meta `port`; else the port that all instances share, unless it is a random one; else the default. Protocol: Meta
    `protocol`, else a tag `protocol=...`, else the default. Where instances disagree the first one, by id, that says so wins.
    """
    remarks: list[tuple[str, str]] = []
    numbers: list[int] = []
    protocols: list[Protocol] = []
    for entry in entries:
        labels = _labels(entry.service)
        if "port" in (entry.service.meta or {}):
            said = labels["port"]
            if said.isascii() and said.isdigit() and len(said) <= 5 and 1 <= int(said) <= 65535:
                numbers.append(int(said))
            else:
                remarks.append(
                    (f"{entry.where}, meta port", f"{said!r} is not a port number, 1 to 65535; not followed")
                )
        if said := labels.get("protocol", "").lower():
            try:
                protocols.append(Protocol(said))
            except ValueError:
                known = ", ".join(p.value for p in Protocol)
                remarks.append((f"{entry.where}, protocol", f"{said!r} is none of {known}; taken for tcp"))
                protocols.append(Protocol.TCP)
    remarks += _disagreement(entries[0].service.name, "port", [str(n) for n in numbers])
    remarks += _disagreement(entries[0].service.name, "protocol", [p.value for p in protocols])
    protocol = protocols[0] if protocols else rules.default_protocol
    if numbers:
        number = numbers[0]
    else:
        shared = {e.service.port for e in entries if not e.service.socket_path}
        number = shared.pop() if len(shared) == 1 and max(shared) < DYNAMIC_PORTS_FROM else rules.default_port
    return Port(protocol.value, number, protocol), remarks


def _disagreement(service: str, subject: str, said: Sequence[str]) -> list[tuple[str, str]]:
    others = sorted(set(said) - set(said[:1]))
    if not others:
        return []
    return [(f"service {service}, meta {subject}", f"instances disagree: {said[0]} is used, not {', '.join(others)}")]


def _hostnames(name: str, datacenters: Iterable[str]) -> frozenset[str]:
    """The names that Consul's own DNS answers to; none where the service's name cannot be part of a host name."""
    if not _HOST_NAME.fullmatch(f"{name}.service.consul"):
        return frozenset()
    low = name.lower()
    return frozenset({f"{low}.service.consul"} | {f"{low}.service.{dc.lower()}.consul" for dc in datacenters if dc})
