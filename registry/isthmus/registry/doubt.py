"""What looks wrong in a catalog, with what to do about it. Nothing is removed for it.

Each finding has a code that scripts and documentation can name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from isthmus.registry.model import Catalog, Health, Instance, Quarantined, Service

_DOCKER = ipaddress.ip_network("172.17.0.0/16")
"""The default bridge of Docker, which only its own host can reach."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that somebody should look at."""

    code: str
    subject: str
    text: str
    fix: str


def examine(catalog: Catalog, quarantined: Iterable[Quarantined]) -> tuple[Finding, ...]:
    """Everything in the catalog that deserves doubt, sorted by code and subject."""
    findings: set[Finding] = set()
    places: dict[tuple[str, int], list[str]] = {}
    for service in catalog.services.values():
        findings.update(_of_service(service))
        for instance in service.instances:
            findings.update(_of_instance(service, instance))
            for port in instance.ports.values():
                places.setdefault((instance.address, port), []).append(str(service.key))
    for (address, port), names in places.items():
        if port and len(set(names)) > 1:
            findings.add(
                Finding(
                    "SharedAddress",
                    f"{address}:{port}",
                    f"is listed by {', '.join(sorted(set(names)))}",
                    "one process may serve several names; otherwise a registration is out of date: deregister it",
                )
            )
    findings.update(
        Finding("Conflict", c.subject, f"{c.dropped} loses to {c.kept}", "make the registries agree, or rename one")
        for c in catalog.conflicts
    )
    findings.update(
        Finding("Quarantined", f"{q.origin}: {q.where}", q.reason, "correct it where it was registered")
        for q in quarantined
    )
    return tuple(sorted(findings))


def _of_service(service: Service) -> Iterable[Finding]:
    if not service.instances:
        yield Finding("NoInstances", str(service.key), "has no instances", "start one, or deregister the service")
        return
    serving = [i for i in service.instances if i.weight > 0 and i.health not in (Health.UNHEALTHY, Health.DRAINING)]
    if not serving:
        worst = ", ".join(sorted({i.health.value for i in service.instances}))
        yield Finding(
            "NothingServes",
            str(service.key),
            f"none of its {len(service.instances)} instances gets requests ({worst}, or weight 0)",
            f"isthmus services {service.key.name} shows each instance's health",
        )
    if len({p.protocol.is_http for p in service.ports}) > 1:
        ports = ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports)
        yield Finding(
            "MixedProtocols",
            str(service.key),
            f"speaks HTTP and something else ({ports})",
            "fine if so meant; else set its protocol",
        )


def _of_instance(service: Service, instance: Instance) -> Iterable[Finding]:
    subject = f"{service.key} {instance.id}"
    if not instance.ports:
        yield Finding("NoPorts", subject, "serves none of its service's ports", "register a port for it")
    if any(port == 0 for port in instance.ports.values()) and not instance.address.startswith("unix:"):
        yield Finding("PortZero", subject, "is registered at port 0", "register the port that it listens on")
    try:
        address = ipaddress.ip_address(instance.address)
    except ValueError:
        return
    if address.is_loopback:
        yield Finding(
            "Loopback",
            subject,
            f"is at {address}, which means another machine to every caller",
            "register the address that others reach, or run the agent that owns it on each machine",
        )
    elif address.is_unspecified or address.is_link_local or address.is_multicast:
        yield Finding(
            "Unroutable", subject, f"is at {address}, which nobody can reach", "register an address of its machine"
        )
    elif address.version == 4 and address in _DOCKER:
        yield Finding(
            "ContainerAddress",
            subject,
            f"is at {address}, inside a Docker bridge that only its own host reaches",
            "publish the port and register the host's address",
        )
    if "lease" in instance.provenance and instance.provenance["lease"] in ("", "0"):
        yield Finding(
            "PermanentKey",
            subject,
            "stands under a key without a lease, which outlives its process",
            "register it with a lease",
        )
