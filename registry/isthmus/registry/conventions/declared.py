"""The ports of a service some of whose instances, or all of them, were registered by Isthmus' agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from isthmus.registry.conventions.said import Remark, Said
from isthmus.registry.model import Port, Service


def as_declared(service: Service, port: str, said: Sequence[Said]) -> tuple[Service, str, list[Remark]]:
    """The service with the ports and weights that agents declare, the name of its main one, and where they contradict each other.

    Where they do, the first instance, by id, wins. An instance that declares none keeps its ports, under the declared names: its
    main port, `port`, is the one that is declared first. `said` is in the order of the instances.
    """
    declaring = [one.declared for one in said if one.declared]
    if not declaring:
        return service, port, []
    main = declaring[0][0].name
    ports: dict[str, Port] = {}
    remarks: list[Remark] = []
    for declared in (d for ports_of_one in declaring for d in ports_of_one):
        wanted = Port(declared.name, declared.number, declared.protocol)
        known = ports.get(wanted.name) or next((p for p in ports.values() if p.number == wanted.number), None)
        if known is None:
            ports[wanted.name] = wanted
        elif known != wanted:
            reason = f"instances disagree: {_shown(known)} is used, not {_shown(wanted)}"
            remarks.append((f"port {wanted.name}", reason))
    names = {p.name: main if p.name == port and p.name not in ports else p.name for p in service.ports}
    others = {n for i, one in zip(service.instances, said, strict=True) if not one.declared for n in i.ports}
    for kept in service.ports:
        if kept.name in others and names[kept.name] not in ports:
            if any(p.number == kept.number for p in ports.values()):
                remarks.append((f"port {kept.name}", f"its number, {kept.number}, is another port's; left out"))
            else:
                ports[kept.name] = kept
    instances = []
    for instance, one in zip(service.instances, said, strict=True):
        own = {d.name: d.here for d in one.declared} or {names[n]: number for n, number in instance.ports.items()}
        own = {n: number for n, number in sorted(own.items()) if n in ports}
        weight = instance.weight if one.declared_weight is None else one.declared_weight
        instances.append(msgspec.structs.replace(instance, ports=own, weight=weight))
    shaped = msgspec.structs.replace(
        service, ports=tuple(sorted(ports.values(), key=lambda p: p.number)), instances=tuple(instances)
    )
    return shaped, main, sorted(set(remarks))


def _shown(port: Port) -> str:
    return f"{port.number}/{port.protocol.value} as {port.name}"
