"""A snapshot with further instances laid over it: what is held, what is still leaving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.model import Instance, Service, ServiceKey, Snapshot


def overlay(
    snapshot: Snapshot,
    extra: Iterable[tuple[ServiceKey, Instance]],
    before: Mapping[ServiceKey, Service],
    touched: Iterable[ServiceKey],
) -> Snapshot:
    """The snapshot with extra instances, which it names as kept.

    A service that the snapshot does not have at all takes its ports and names from `before`. `touched` are the keys whose extra
    instances differ from what was laid over the previous snapshot: its hint grows by them.
    """
    kept = set(snapshot.kept)
    by_key: dict[ServiceKey, list[Instance]] = {}
    for key, instance in extra:
        by_key.setdefault(key, []).append(instance)
        kept.add((key, instance.id))
    touched = frozenset(touched)
    if not by_key and not touched:
        return snapshot
    services = dict(snapshot.services)
    for key, instances in by_key.items():
        service = services.get(key) or msgspec.structs.replace(before[key], instances=())
        services[key] = _with(service, instances)
    changed = None if snapshot.changed is None else snapshot.changed | touched
    return msgspec.structs.replace(snapshot, services=services, changed=changed, kept=frozenset(kept))


def is_absent(key: ServiceKey, instance: Instance, snapshot: Snapshot) -> bool:
    """Neither the instance's id nor another id at its place is there."""
    service = snapshot.services.get(key)
    if service is None:
        return True
    place = (instance.address, instance.ports)
    return all(i.id != instance.id and (i.address, i.ports) != place for i in service.instances)


def _with(service: Service, instances: list[Instance]) -> Service:
    return msgspec.structs.replace(service, instances=tuple(sorted((*service.instances, *instances), key=_id)))


def _id(instance: Instance) -> str:
    return instance.id
