"""A snapshot with further instances laid over it: what is held, what is still leaving."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter

import msgspec

from isthmus.registry.model import Instance, Service, ServiceKey, Snapshot

Extra = Iterable[tuple[ServiceKey, Instance]]
"""Instances that a snapshot lacks, with the services that they belong to."""

_id = attrgetter("id")


def overlay(
    snapshot: Snapshot, extra: Extra, touched: Iterable[ServiceKey], under: Snapshot, over: Snapshot
) -> Snapshot:
    """The snapshot with extra instances, which it names as kept.

    `over` is what such an overlay made of the snapshot before, `under`, and `touched` are the keys of which the extra instances
    differ from those that were laid over that: the hint grows by them. What does not differ is shared with `over`, and so are
    the ports and names of a service that the snapshot does not have at all.
    """
    kept = set(snapshot.kept)
    by_key = _by_key(extra)
    kept.update((key, instance.id) for key, instances in by_key.items() for instance in instances)
    touched = frozenset(touched)
    if not by_key and not touched:
        return snapshot
    services = dict(snapshot.services)
    for key, instances in by_key.items():
        service = services.get(key)
        if key not in touched and service is under.services.get(key):
            services[key] = over.services[key]
        else:
            service = service or msgspec.structs.replace(over.services[key], instances=())
            together = tuple(sorted((*service.instances, *instances), key=_id))
            services[key] = msgspec.structs.replace(service, instances=together)
    changed = None if snapshot.changed is None else snapshot.changed | touched
    return msgspec.structs.replace(snapshot, services=services, changed=changed, kept=frozenset(kept))


def missing(instances: Collection[Instance], service: Service | None) -> Collection[Instance]:
    """Those of which neither the id nor another id at the place is in a service."""
    if service is None:
        return instances
    ids = set(map(_id, service.instances))
    gone = [i for i in instances if i.id not in ids]
    addresses = {i.address for i in gone}
    if not addresses:
        return ()
    places = {_place(i) for i in service.instances if i.address in addresses}
    return [i for i in gone if _place(i) not in places]


def returned(extra: Extra, under: Snapshot, incoming: Snapshot) -> frozenset[tuple[ServiceKey, str]]:
    """Those of the extra instances, all of which were missing from `under`, that are not missing any longer: by key and id."""
    back: set[tuple[ServiceKey, str]] = set()
    for key, instances in _by_key(extra).items():
        service = incoming.services.get(key)
        if service is not under.services.get(key):
            back.update((key, i.id) for i in instances)
            back.difference_update((key, i.id) for i in missing(instances, service))
    return frozenset(back)


def _by_key(extra: Extra) -> dict[ServiceKey, list[Instance]]:
    by_key: dict[ServiceKey, list[Instance]] = {}
    for key, instance in extra:
        by_key.setdefault(key, []).append(instance)
    return by_key


def _place(instance: Instance) -> tuple[str, frozenset[tuple[str, int]]]:
    return instance.address, frozenset(instance.ports.items())
