"""A service, given what its instances say of ports, weights and zones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.registry.conventions.declared import as_declared
from isthmus.registry.conventions.said import Remark, Said
from isthmus.registry.model import Health, Instance, Port, Protocol, Service

SHARES = 10_000
"""What shares of 1 are multiplied with to become weights, as in Fabio."""

_NOTHING = Said()


def shape(service: Service, port: str, saids: Mapping[str, Said], dynamic_from: int) -> tuple[Service, list[Remark]]:
    """The service with the ports, weights and zones that its instances say, and what of it could not be used.

    Args:
        service: as its registry has it.
        port: the name of the port that its instances are registered with.
        saids: by instance id.
        dynamic_from: ports from here on are handed out at random, so that they are never a service's own.

    """
    if not any(said.shapes for said in saids.values()):
        return service, []
    said = [saids.get(i.id, _NOTHING) for i in service.instances]
    service, port, contradictions = as_declared(service, port, said)
    more, remarks = _more_ports(service.ports, said, dynamic_from)
    names = {p.name for p in more}
    instances = tuple(
        _shaped(instance, port, one, weight, names)
        for instance, one, weight in zip(service.instances, said, _weights(service.instances, said), strict=True)
    )
    ports = tuple(sorted((*service.ports, *more), key=lambda p: p.number))
    return msgspec.structs.replace(service, ports=ports, instances=instances), contradictions + remarks


def _shaped(instance: Instance, port: str, said: Said, weight: int, names: set[str]) -> Instance:
    ports = dict(instance.ports) | {p.name: p.number for p in said.more if p.name in names}
    if said.own_port and port in ports:
        ports[port] = said.own_port
    locality = said.place or instance.locality
    if said.zone and not locality.zone:
        locality = msgspec.structs.replace(locality, zone=said.zone)
    return msgspec.structs.replace(instance, ports=dict(sorted(ports.items())), weight=weight, locality=locality)


def _more_ports(ports: Sequence[Port], said: Sequence[Said], dynamic_from: int) -> tuple[list[Port], list[Remark]]:
    """Logical ports for those that instances have besides. One needs a number that all of them share, and no other port has."""
    numbers: dict[str, set[int]] = {}
    protocols: dict[str, Protocol] = {}
    for one in said:
        for port in one.more:
            numbers.setdefault(port.name, set()).add(port.number)
            protocols.setdefault(port.name, port.protocol)
    more: list[Port] = []
    remarks: list[Remark] = []
    for name in sorted(numbers):
        number = min(numbers[name])
        taken = next((p for p in (*ports, *more) if p.number == number or p.name == name), None)
        if len(numbers[name]) > 1 or number >= dynamic_from:
            shown = ", ".join(str(n) for n in sorted(numbers[name])[:3])
            reason = f"its instances share no fixed number ({shown}), so callers could not name one; left out"
            remarks.append((f"port {name}", reason))
        elif taken is not None:
            remarks.append((f"port {name}", f"{number} or this name belongs to port {taken.name} already; left out"))
        else:
            more.append(Port(name, number, protocols[name]))
    return more, remarks


def _weights(instances: Sequence[Instance], said: Sequence[Said]) -> list[int]:
    """Weights by shares, where any instance has one; else by what they say; else as they are."""
    if any(one.share for one in said):
        return _by_shares(instances, said)
    usual = next((one.usual_weight for one in said if one.weight is not None), None)
    if usual is None:
        return [i.weight for i in instances]
    return [usual if one.weight is None else one.weight for one in said]


def _by_shares(instances: Sequence[Instance], said: Sequence[Said]) -> list[int]:
    """As Fabio does: who says a share has it, the others divide the rest alike; both are counted among those that serve.

    Nobody gets nothing: what serves must be there when the others fail.
    """
    serving = [i.health in (Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN) for i in instances]
    fixed = sum(one.share for one, serves in zip(said, serving, strict=True) if serves)
    others = sum(1 for one, serves in zip(said, serving, strict=True) if serves and not one.share)
    scale = 1 / fixed if fixed > 1 or (fixed and not others) else 1.0
    rest = max(0.0, 1 - fixed) / max(1, others)
    return [max(1, round(SHARES * min(1.0, one.share * scale if one.share else rest))) for one in said]
