"""Before a cut-over: what each of two registries alone knows."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from isthmus.registry.model import Health, Instance, Service, ServiceKey, Snapshot


class Difference(msgspec.Struct, frozen=True, order=True):
    """One thing that two origins do not know alike, and what each says of it, empty where it knows nothing of it."""

    service: str
    what: str
    """A place that instances serve, `address:port`; or `ports`, the logical ones; or `service`, where nothing else differs."""
    first: str
    second: str


class Parity(msgspec.Struct, frozen=True):
    """How two origins compare. The counts are of services, and of instances of all services."""

    first: str
    second: str
    services: tuple[int, int]
    instances: tuple[int, int]
    same: int
    """Services that both know, with the same instances, ports and health."""
    differences: tuple[Difference, ...]


def parity(first: Snapshot, second: Snapshot) -> Parity:
    """Compare what two origins know, service by service.

    Instances are the same when they serve the same address and port and both origins let them have requests, or neither does.
    """
    keys = first.services.keys() | second.services.keys()
    by_key = {key: sorted(_compare(key, first.services.get(key), second.services.get(key))) for key in sorted(keys)}
    return Parity(
        first.origin.name,
        second.origin.name,
        (len(first.services), len(second.services)),
        (_count(first), _count(second)),
        sum(not found for found in by_key.values()),
        tuple(difference for found in by_key.values() for difference in found),
    )


def _compare(key: ServiceKey, first: Service | None, second: Service | None) -> Iterator[Difference]:
    one, two = _places(first), _places(second)
    for place in one.keys() | two.keys():
        a, b = one.get(place), two.get(place)
        if a is None or b is None or _serves(a) != _serves(b):
            yield Difference(str(key), place, _state(a), _state(b))
    if first and second:
        if {(p.number, p.protocol) for p in first.ports} != {(p.number, p.protocol) for p in second.ports}:
            yield Difference(str(key), "ports", _ports(first), _ports(second))
    elif not (one or two):
        known = "listed without instances"
        yield Difference(str(key), "service", known if first else "", known if second else "")


def _places(service: Service | None) -> dict[str, Instance]:
    return {_place(i.address, port): i for i in service.instances for port in i.ports.values()} if service else {}


def _place(address: str, port: int) -> str:
    if address.startswith("unix:"):
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _serves(instance: Instance) -> bool:
    return instance.health in (Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN) and instance.weight > 0


def _state(instance: Instance | None) -> str:
    if instance is None:
        return ""
    return instance.health.value if instance.weight > 0 else f"{instance.health.value}, weight 0"


def _ports(service: Service) -> str:
    return ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports)


def _count(snapshot: Snapshot) -> int:
    return sum(len(s.instances) for s in snapshot.services.values())
