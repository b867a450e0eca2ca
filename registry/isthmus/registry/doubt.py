"""What looks wrong in a catalog, with what to do about it. Nothing is removed for it unless the operator says so (`DoubtRules`).

Each finding has a code that scripts and documentation can name. Instances of one service that are doubtful for one reason are
one finding, and so are the services of one node that failed: the list is read by somebody in a hurry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Literal

import msgspec

from isthmus.registry.model import Catalog, Instance, Quarantined, Service

FIXES = {
    "Quarantined": "correct it where it was registered",
    "Conflict": "make the registries agree, or rename one",
    "Removed": "doubt.remove says so; correct or delete it where it was registered",
    "NothingServes": "isthmus services NAME shows the health of each instance, isthmus explain endpoint the reason",
    "NoInstances": "start one, or deregister the service",
    "PortZero": "register the port that it listens on",
    "NoPorts": "register a port for it",
    "FailedNode": "if it is gone for good, take it out of the registry: consul force-leave -prune NODE",
    "NoRenewal": "if it is gone, delete it from Eureka; if not, see why it cannot reach its Eureka server",
    "PermanentKey": "register it with a lease; delete the key if its process is gone",
    "Loopback": "register the address that others reach, or move the service to a registry that only its own machine reads",
    "Unroutable": "register an address of its machine",
    "ContainerAddress": "publish the port and register the host's address",
    "DuplicateId": "fine if they are two processes; else one registry is out of date: deregister it there",
    "SharedAddress": "fine if one process serves all these names; else one registration is out of date: deregister it",
    "MixedProtocols": "fine if so meant; else set the service's protocol",
}
"""What to do, by code, in the order in which findings are told: what hurts first, what may well be meant so last."""

Removable = Literal[
    "PortZero", "NoPorts", "FailedNode", "NoRenewal", "PermanentKey", "Loopback", "Unroutable", "ContainerAddress"
]
"""Findings that are about one instance, and so can take it out."""

_DOCKER = ipaddress.ip_network("172.17.0.0/16")
"""The default bridge of Docker, which only its own host can reach."""

_SERF = "Serf Health Status"
"""Consul's own check of a node; critical when its agent does not answer the others."""

_SHOWN = 3
"""Names in one sentence."""


class DoubtRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`remove` names findings for which an instance is taken out of the catalog.

    Never the last one that serves: where all that could serve are doubtful, the evidence is what deserves doubt.
    """

    remove: tuple[Removable, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """One thing that somebody should look at."""

    code: str
    subject: str
    text: str
    fix: str


def reason_to_remove(instance: Instance, rules: DoubtRules) -> tuple[str, str] | None:
    """The finding that takes an instance out, as its code and text; None for one that stays."""
    found = [*_of_instance(instance, frozenset())]
    if _is_on_failed_node(instance):
        found.append(("FailedNode", f"on node {instance.provenance.get('node', '')}, which does not answer"))
    return next((x for x in found if x[0] in rules.remove), None)


def examine(catalog: Catalog, quarantined: Iterable[Quarantined]) -> tuple[Finding, ...]:
    """Everything in the catalog that deserves doubt, in the order of `FIXES` and then by subject."""
    services = catalog.services.values()
    one_machine = _is_one_machine(services)
    said = {
        *(("Quarantined", f"{q.origin}: {q.where}", q.reason) for q in quarantined),
        *(("Conflict", c.subject, f"{c.dropped} loses to {c.kept}") for c in catalog.conflicts),
        *_shared(services, one_machine=one_machine),
        *_failed_nodes(services),
    }
    for key, removed in catalog.removed.items():
        for r in removed:
            said.add(("Removed", f"{key}, instance {r.instance.id}", f"taken out ({r.code}): {r.text}"))
    for service in services:
        said.update(_of_service(service))
        said.update(_of_instances(service, one_machine=one_machine))
    ranks = {code: rank for rank, code in enumerate(FIXES)}
    ordered = sorted(said, key=lambda s: (ranks[s[0]], *s[1:]))
    return tuple(Finding(code, subject, text, FIXES[code]) for code, subject, text in ordered)


def _of_service(service: Service) -> Iterator[tuple[str, str, str]]:
    key = str(service.key)
    if not service.instances:
        yield "NoInstances", key, "has no instances"
        return
    if not any(i.serves for i in service.instances):
        states = sorted({i.health.value if i.weight > 0 else f"{i.health.value}, weight 0" for i in service.instances})
        count = len(service.instances)
        yield (
            "NothingServes",
            key,
            f"{_count(count, count)} {'gets' if count == 1 else 'get'} no requests: {'; '.join(states)}",
        )
    if len({p.protocol.is_http for p in service.ports}) > 1:
        ports = ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports)
        yield "MixedProtocols", key, f"speaks HTTP and something else: {ports}"


def _of_instances(service: Service, *, one_machine: bool) -> Iterator[tuple[str, str, str]]:
    """One finding for all instances of a service that are doubtful alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    ids = frozenset(i.id for i in service.instances)
    for instance in service.instances:
        for code, what in _of_instance(instance, ids):
            if code != "Loopback" or not one_machine:
                place = "" if instance.address in instance.id else f" at {instance.address}"
                alike.setdefault((code, what), []).append(instance.id + place)
    for (code, what), named in alike.items():
        yield code, str(service.key), f"{_count(len(named), len(service.instances))} {what}: {_names(named)}"


def _of_instance(instance: Instance, ids: frozenset[str]) -> Iterator[tuple[str, str]]:
    if not instance.ports:
        yield "NoPorts", "without any of the service's ports"
    if any(port == 0 for port in instance.ports.values()) and not instance.address.startswith("unix:"):
        yield "PortZero", "at port 0"
    if instance.provenance.get("renewal"):
        yield "NoRenewal", "without a renewal in time"
    if instance.provenance.get("lease", "").startswith("none"):
        yield "PermanentKey", "under a key without a lease, which outlives its process"
    bare = instance.id.removeprefix(f"{instance.origin}/")
    if bare in ids and bare != instance.id:
        yield "DuplicateId", "with the id of another one in another registry"
    if (of_address := _of_address(instance.address)) is not None:
        yield of_address


@lru_cache(1 << 16)
def _of_address(text: str) -> tuple[str, str] | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_loopback:
        return "Loopback", "at a loopback address, which is another machine to every caller"
    if address.is_unspecified or address.is_link_local or address.is_multicast:
        return "Unroutable", "at an address that nobody can reach"
    if address.version == 4 and address in _DOCKER:
        return "ContainerAddress", f"in Docker's own network {_DOCKER}, which only its host reaches"
    return None


def _is_one_machine(services: Iterable[Service]) -> bool:
    """Whether all there is runs on this machine, where a loopback address is as good as any: a demonstration, a test."""
    instances = [i for s in services for i in s.instances]
    nodes = {node for i in instances if (node := i.provenance.get("node"))}
    return len(nodes) <= 1 and all(_is_local(i.address) for i in instances)


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.startswith("unix:") or address == "localhost"


def _shared(services: Iterable[Service], *, one_machine: bool) -> Iterator[tuple[str, str, str]]:
    """Places that several services list, one finding for each set of services.

    A loopback address is one place on one machine only.
    """
    places: dict[tuple[str, int], set[str]] = {}
    for service in services:
        for instance in service.instances:
            for port in instance.ports.values():
                if port and (one_machine or not _is_local(instance.address)):
                    places.setdefault((instance.address, port), set()).add(str(service.key))
    by_names: dict[frozenset[str], list[str]] = {}
    for (address, port), names in places.items():
        if len(names) > 1:
            by_names.setdefault(frozenset(names), []).append(f"{address}:{port}")
    for services_there, shared in by_names.items():
        text = f"list the same {'place' if len(shared) == 1 else f'{len(shared)} places'}: {_names(shared)}"
        yield "SharedAddress", _names(services_there), text


def _failed_nodes(services: Iterable[Service]) -> Iterator[tuple[str, str, str]]:
    there: dict[tuple[str, str], list[str]] = {}
    for service in services:
        for instance in service.instances:
            if _is_on_failed_node(instance):
                at = (instance.origin, instance.provenance.get("node", ""))
                there.setdefault(at, []).append(str(service.key))
    for (origin, node), keys in there.items():
        count = "one instance is" if len(keys) == 1 else f"{len(keys)} instances are"
        yield (
            "FailedNode",
            f"{origin}: node {node}",
            f"does not answer; {count} registered on it, of {_names(set(keys))}",
        )


def _is_on_failed_node(instance: Instance) -> bool:
    return _SERF in instance.provenance.get("failing_checks", "")


def _count(count: int, of: int) -> str:
    if count == of:
        return "its only instance" if of == 1 else f"all {of} instances"
    return f"{count} of {of} instances"


def _names(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
