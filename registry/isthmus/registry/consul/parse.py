"""Consul's entries into services. Pure: what an entry means for callers is decided here, in ports.py, place.py and sidecar.py."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.address import is_host_name
from isthmus.registry.consul.answers import Entry, Listing, Weights
from isthmus.registry.consul.place import address_of, locality_of
from isthmus.registry.consul.ports import DYNAMIC_PORTS_FROM, Listening, instance_ports, listening, logical_ports
from isthmus.registry.consul.sidecar import KIND as SIDECAR_KIND
from isthmus.registry.consul.sidecar import Sidecar, parse_sidecar
from isthmus.registry.conventions import Convention, Said, read, shape
from isthmus.registry.model import Health, Instance, Origin, Port, Protocol, Quarantined, Service, ServiceKey
from isthmus.registry.reuse import once, once_mapping

MAINTENANCE = ("_node_maintenance", "_service_maintenance:")
"""CheckIDs that `consul maint` registers, for a node and, followed by the service's id, for a service."""

NATIVE = "connect"
"""`tls_mode` of an instance that speaks the mutual TLS of Consul's mesh itself, at its own port."""


class Rules(msgspec.Struct, frozen=True):
    """What holds for every service of one origin (`ConsulConfig`). `remote`: it is not in the agent's own datacenter."""

    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    namespace: str = "default"
    remote: bool = False
    conventions: tuple[Convention, ...] = ("k=v",)


class Parsed(msgspec.Struct, frozen=True):
    """What became of one service. `service` is None when nothing of it can be called: no entry, only proxies, all quarantined.

    `unusable_on` are the nodes of the instances that are quarantined. `sidecars` are the proxies that it is.
    """

    service: Service | None
    unusable_on: frozenset[str] = frozenset()
    quarantined: tuple[Quarantined, ...] = ()
    sidecars: frozenset[Sidecar] = frozenset()

    def is_on(self, nodes: frozenset[str]) -> bool:
        """Whether it has instances on any of these nodes: their checks are its checks too, and their addresses may be."""
        instances = self.service.instances if self.service else ()
        return not nodes.isdisjoint(self.unusable_on) or any(i.provenance["node"] in nodes for i in instances)


class _Usable(msgspec.Struct, frozen=True):
    """An instance that can be called: where, and the port at that address, or 0 for those it listens on."""

    entry: Entry
    listening: Listening
    said: Said
    address: str
    port: int


def cannot_be_asked_for(name: str) -> str:
    """Why no request can be about the service of this name, or empty: such a path would be about something else."""
    if {"", ".", ".."} & set(name.split("/")):
        return f"the name {name!r} cannot be part of a URL's path, and so not be asked for"
    return ""


def parse_service(origin: Origin, name: str, listing: Listing, rules: Rules) -> Parsed:
    """All entries of one service name, as one service. Gateways are no part of it: they stand for other services."""
    quarantined = [Quarantined(origin.name, where, reason) for where, reason in listing.unreadable]
    usable: dict[str, _Usable] = {}
    unusable_on: set[str] = set()
    sidecars: set[Sidecar] = set()
    entries = sorted((e for e in listing.entries if e.service.kind in ("", SIDECAR_KIND)), key=instance_id)
    for entry in entries:
        try:
            if entry.service.kind == SIDECAR_KIND:
                sidecars.add(parse_sidecar(entry, remote=rules.remote))
            elif instance_id(entry) in usable:
                raise ValueError("another instance has the same node and id")  # noqa: TRY301
            else:
                own = listening(entry.service)
                said = _said(entry, own, rules)
                usable[instance_id(entry)] = _Usable(entry, own, said, *address_of(entry, remote=rules.remote))
        except ValueError as e:
            quarantined.append(Quarantined(origin.name, entry.where, str(e)))
            if not entry.service.kind:
                unusable_on.add(entry.node.node)
    if not usable:
        return Parsed(None, frozenset(unusable_on), tuple(sorted(quarantined)), frozenset(sidecars))

    good = list(usable.values())
    ports, remarks = logical_ports(
        [(u.entry, u.listening, u.said) for u in good], rules.default_protocol, rules.default_port
    )
    service = Service(
        key=ServiceKey(good[0].entry.service.namespace or rules.namespace, name),
        ports=tuple(sorted(ports, key=lambda p: p.number)),
        instances=tuple(_instance(origin, id_, u, ports) for id_, u in usable.items()),
        hostnames=_hostnames(name, [u.entry for u in good]),
    )
    service, further = shape(service, ports[0].name, {k: u.said for k, u in usable.items()}, DYNAMIC_PORTS_FROM)
    remarks += [(f"service {name}, {about}", reason) for about, reason in further]
    remarks += [(f"{u.entry.where}, {about}", reason) for u in good for about, reason in u.said.remarks]
    quarantined += [Quarantined(origin.name, where, reason) for where, reason in remarks]
    return Parsed(service, frozenset(unusable_on), tuple(sorted(quarantined)), frozenset(sidecars))


def instance_id(entry: Entry) -> str:
    """What identifies an instance within its service: a service id is unique on its node only."""
    return f"{entry.node.node}/{entry.service.id or entry.service.name}"


def _instance(origin: Origin, id_: str, usable: _Usable, ports: tuple[Port, ...]) -> Instance:
    entry = usable.entry
    health, weight = _health(entry)
    return Instance(
        id=id_,
        origin=origin.name,
        address=usable.address,
        ports=once_mapping(instance_ports(ports, usable.listening, usable.port)),
        health=health,
        weight=weight,
        locality=once(locality_of(entry)),
        labels=once_mapping(usable.said.labels),
        tls_mode=NATIVE if entry.service.connect and entry.service.connect.native else "",
        provenance=_provenance(entry, usable.said),
    )


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


def _said(entry: Entry, own: Listening, rules: Rules) -> Said:
    service = entry.service
    tags, meta = service.tags or (), service.meta or {}
    said = read(rules.conventions, tags, meta, id_=service.id, port=own.number, always=("protocol",))
    if said.unusable:
        raise ValueError(said.unusable)
    return said


def _provenance(entry: Entry, by: Said) -> Mapping[str, str]:
    failing = sorted({c.name or c.check_id for c in entry.checks or () if c.status != "passing"})
    said = {
        "node": sys.intern(entry.node.node),
        "datacenter": sys.intern(entry.node.datacenter),
        "service_id": entry.service.id,
        "partition": entry.service.partition or entry.node.partition,
        "peer": entry.service.peer_name or entry.node.peer_name,
        "failing_checks": ", ".join(failing)[:200],
        "conventions": ", ".join(by.applied),
    }
    return {k: v for k, v in said.items() if v}


def _hostnames(name: str, entries: Iterable[Entry]) -> frozenset[str]:
    """The names that Consul's own DNS answers to; none where the service's name cannot be part of a host name."""
    if not is_host_name(f"{name}.service.consul"):
        return frozenset()
    low = name.lower()
    names = set()
    for entry in entries:
        if peer := entry.service.peer_name or entry.node.peer_name:
            names.add(f"{low}.service.{peer.lower()}.peer.consul")
        else:
            names.add(f"{low}.service.consul")
            names.update({f"{low}.service.{entry.node.datacenter.lower()}.consul"} if entry.node.datacenter else ())
    return frozenset(names)
