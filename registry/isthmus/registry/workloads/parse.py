"""The workloads of one service into a service. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from isthmus.registry.model import Instance, Locality, Port, Service, ServiceKey
from isthmus.registry.workloads.record import Place, Workload


def to_service(workloads: Sequence[Workload], origin: str) -> tuple[Service, tuple[tuple[str, str], ...]]:
    """All workloads of one service, at least one, and by id why a port of some could not be taken.

    The first workload that has a port, by id, says what callers name it and which protocol it speaks. One that says otherwise is
    called at its own number all the same.
    """
    ports: dict[str, Port] = {}
    remarks: list[tuple[str, str]] = []
    workloads = sorted(workloads, key=lambda w: w.id)
    for workload in workloads:
        for name in sorted(workload.ports, key=workload.number):
            wanted = Port(name, workload.number(name), workload.protocol(name))
            known = ports.get(name) or next((p for p in ports.values() if p.number == wanted.number), None)
            if known is None:
                ports[name] = wanted
            elif known != wanted:
                remarks.append(
                    (workload.id, f"others of its service have the port {_shown(known)}, not {_shown(wanted)}")
                )
    return Service(
        key=ServiceKey(workloads[0].namespace, workloads[0].service),
        ports=tuple(sorted(ports.values(), key=lambda p: p.number)),
        instances=tuple(_instance(workload, origin, ports) for workload in workloads),
    ), tuple(remarks)


def _instance(workload: Workload, origin: str, ports: dict[str, Port]) -> Instance:
    return Instance(
        id=workload.id,
        origin=origin,
        address=workload.address,
        ports={name: number for name, number in sorted(workload.ports.items()) if name in ports},
        health=workload.health_state,
        weight=workload.weight,
        locality=_locality(workload.locality),
        labels=dict(sorted(workload.labels.items())),
        provenance={"epoch": str(workload.epoch)},
    )


@lru_cache(4096)
def _locality(place: Place) -> Locality:
    return Locality(place.region, place.zone, place.sub_zone)


def _shown(port: Port) -> str:
    return f"{port.name} {port.number}/{port.protocol.value}"
