"""Before a cut-over: what each of two registries alone knows."""

from __future__ import annotations

import msgspec

from isthmus.registry.model import Health, Instance, Service, ServiceKey, Snapshot


class Difference(msgspec.Struct, frozen=True, order=True):
    """One service that two origins do not know alike. Instances are named by the places that they serve, `address:port`."""

    service: str
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    disagree: tuple[str, ...] = ()
    """Places that both list, and what they say of them: `10.0.0.9:80 healthy / unhealthy`."""
    ports: str = ""
    """The logical ports, where they differ."""


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
    """Compare what two origins know, service by service; instances are the same when they serve the same address and port."""
    differences: list[Difference] = []
    same = 0
    for key in sorted(first.services.keys() | second.services.keys()):
        difference = _compare(key, first.services.get(key), second.services.get(key))
        if difference is None:
            same += 1
        else:
            differences.append(difference)
    return Parity(
        first.origin.name,
        second.origin.name,
        (len(first.services), len(second.services)),
        (_count(first), _count(second)),
        same,
        tuple(differences),
    )


def _compare(key: ServiceKey, first: Service | None, second: Service | None) -> Difference | None:
    one, two = _places(first), _places(second)
    disagree = tuple(
        f"{place} {one[place].health.value} / {two[place].health.value}"
        for place in sorted(one.keys() & two.keys())
        if _serves(one[place]) != _serves(two[place])
    )
    ports = ""
    if (
        first
        and second
        and {(p.number, p.protocol) for p in first.ports} != {(p.number, p.protocol) for p in second.ports}
    ):
        ports = f"{_ports(first)} / {_ports(second)}"
    only_first, only_second = tuple(sorted(one.keys() - two.keys())), tuple(sorted(two.keys() - one.keys()))
    if first and second and not (only_first or only_second or disagree or ports):
        return None
    return Difference(str(key), only_first, only_second, disagree, ports)


def _places(service: Service | None) -> dict[str, Instance]:
    return {f"{i.address}:{port}": i for i in service.instances for port in i.ports.values()} if service else {}


def _serves(instance: Instance) -> bool:
    return instance.health in (Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN) and instance.weight > 0


def _ports(service: Service) -> str:
    return ", ".join(f"{p.number}/{p.protocol.value}" for p in service.ports)


def _count(snapshot: Snapshot) -> int:
    return sum(len(s.instances) for s in snapshot.services.values())
