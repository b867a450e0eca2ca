"""All origins' snapshots become one catalog.

A service that several origins know is one service: its ports come from the first origin that knows it, its host names are
united, and its instances are united, deduplicated by the addresses they serve. Origins count in the order of the configuration;
but an instance that an origin only keeps, being held or draining, yields to one that another origin lists at the same place. So
a service that moves from one registry to another goes on without a gap.
Where an operator gives origins shares of the traffic, the weights of the instances are set so that they hold (`MergeRules`).
Instances that are doubtful for a reason that the operator named are left out first (`isthmus.registry.doubt`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from isthmus.registry.doubt import DoubtRules, reason_to_remove
from isthmus.registry.model import (
    Catalog,
    Conflict,
    Health,
    Instance,
    OutlierDetection,
    Port,
    Removed,
    Service,
    ServiceKey,
    Snapshot,
)
from isthmus.registry.reuse import reuse
from isthmus.registry.weights import is_tapered, shared, without_taper


class MergeRules(msgspec.Struct, frozen=True):
    """How one catalog is made of several origins.

    `weights` are relative, by origin: `{eureka: 90, consul: 10}` sends a tenth of a service's requests to the instances that
    Consul lists, if both know it. An origin that is not named has 100. Without any, each instance counts by its own weight.

    `outlier_detection` is by origin, for those that notice crashes too late. A service that several of them know takes it from
    the first one.
    """

    weights: Mapping[str, int] = {}
    outlier_detection: Mapping[str, OutlierDetection] = {}
    doubt: DoubtRules = DoubtRules()


class Merged(msgspec.Struct, frozen=True):
    """One service after merging, with what had to be left out of it."""

    service: Service
    conflicts: tuple[Conflict, ...] = ()
    removed: tuple[Removed, ...] = ()


class MergeState(msgspec.Struct, frozen=True):
    """A catalog with the parts that the next merge may share."""

    catalog: Catalog
    rules: MergeRules
    snapshots: Mapping[str, Snapshot]
    conflicts: Mapping[ServiceKey, tuple[Conflict, ...]]


def merge(
    snapshots: Sequence[Snapshot],
    previous: MergeState | None = None,
    rules: MergeRules = MergeRules(),  # noqa: B008 - frozen
) -> MergeState:
    """Merge snapshots, in the order of precedence of their origins.

    With `previous`, keys that no snapshot hints to have changed since are shared; without the hints the result is the same
    (tests/property/test_merge.py). A hint counts only from one snapshot to the very next (`Snapshot.changed`); whoever skips
    snapshots unites their hints.
    """
    now = {s.origin.name: s for s in snapshots}
    keys = _touched(snapshots, previous, rules)
    services = dict(previous.catalog.services) if previous else {}
    conflicts = dict(previous.conflicts) if previous else {}
    removed = dict(previous.catalog.removed) if previous else {}
    changed: set[ServiceKey] = set()
    for key in keys:
        before = services.get(key)
        merged = _merge_one([(s, s.services[key]) for s in snapshots if key in s.services], rules, before)
        conflicts.pop(key, None)
        removed.pop(key, None)
        if merged is None:
            if before is not None:
                del services[key]
                changed.add(key)
            continue
        if merged.conflicts:
            conflicts[key] = merged.conflicts
        if merged.removed:
            removed[key] = merged.removed
        if before != merged.service:
            services[key] = merged.service
            changed.add(key)
    catalog = Catalog(
        services=services,
        conflicts=tuple(sorted(c for cs in conflicts.values() for c in cs)),
        quarantined=tuple(sorted({q for s in snapshots for q in s.quarantined})),
        changed=frozenset(changed) if previous else None,
        removed=removed,
    )
    return MergeState(catalog, rules, now, conflicts)


def _touched(snapshots: Sequence[Snapshot], previous: MergeState | None, rules: MergeRules) -> set[ServiceKey]:
    """Keys whose merged service may differ from the previous one."""
    same = previous is not None and (rules, [s.origin.name for s in snapshots]) == (
        previous.rules,
        list(previous.snapshots),
    )
    if previous is None or not same:
        # Other origins, another precedence or other shares: everything may differ, and what was there may have gone.
        before = set(previous.catalog.services) if previous else set[ServiceKey]()
        return before.union(*(s.services for s in snapshots))
    touched: set[ServiceKey] = set()
    for snapshot in snapshots:
        before_it = previous.snapshots[snapshot.origin.name]
        if snapshot is before_it:
            continue
        touched.update(key for key, _ in snapshot.kept ^ before_it.kept)
        if snapshot.changed is not None:
            touched |= snapshot.changed
        else:
            touched |= differing(before_it.services, snapshot.services)
    return touched


def differing(before: Mapping[ServiceKey, Service], after: Mapping[ServiceKey, Service]) -> frozenset[ServiceKey]:
    """Keys that were added, removed or altered."""
    gone = before.keys() - after.keys()
    return frozenset(gone | {key for key, service in after.items() if before.get(key) != service})


def _merge_one(claims: Sequence[tuple[Snapshot, Service]], rules: MergeRules, before: Service | None) -> Merged | None:
    if not claims:
        return None
    claims, removed = _without_doubtful(claims, rules.doubt)
    origin, first = claims[0]
    outlier_detection = next(
        (rules.outlier_detection[s.origin.name] for s, _ in claims if s.origin.name in rules.outlier_detection), None
    )
    if len(claims) == 1:
        alone = first
        if is_tapered(first.instances):
            instances = tuple(without_taper({i.id: i for i in first.instances}).values())
            alone = reuse(before, msgspec.structs.replace(first, instances=instances))
        if outlier_detection is not None:
            alone = msgspec.structs.replace(alone, outlier_detection=outlier_detection)
        return Merged(alone, removed=removed)
    conflicts = tuple(
        Conflict(f"ports of {first.key}", _ports(origin, first.ports), _ports(snapshot, service.ports))
        for snapshot, service in claims[1:]
        if service.ports != first.ports
    )
    by_id: dict[str, Instance] = {}
    listed_by: dict[str, str] = {}
    seen: set[tuple[str, str, int]] = set()
    for origin_name, renamed, is_kept, claimed in _claimed(first, claims):
        unaltered = {name for name, kept_as in renamed.items() if name == kept_as}
        for instance in claimed:
            ports = instance.ports
            if not ports.keys() <= unaltered:
                ports = {renamed[name]: number for name, number in ports.items() if name in renamed}
            served = [(instance.address, name, number) for name, number in ports.items()]
            if served and seen.issuperset(served):
                continue
            seen.update(served)
            instance_id = instance.id if instance.id not in by_id else f"{origin_name}/{instance.id}"
            if instance_id == instance.id and ports is instance.ports:
                by_id[instance_id] = instance
            else:
                by_id[instance_id] = msgspec.structs.replace(instance, id=instance_id, ports=ports)
            if not (is_kept and instance.health is Health.DRAINING):
                listed_by[instance_id] = origin_name
    by_id = without_taper(by_id)
    if rules.weights:
        by_id = shared(by_id, listed_by, rules.weights)
    service = Service(
        key=first.key,
        ports=first.ports,
        instances=tuple(by_id[i] for i in sorted(by_id)),
        hostnames=frozenset().union(*(s.hostnames for _, s in claims)),
        external=first.external,
        outlier_detection=outlier_detection,
    )
    return Merged(reuse(before, service), conflicts, removed)


def _claimed(
    first: Service, claims: Sequence[tuple[Snapshot, Service]]
) -> Iterator[tuple[str, Mapping[str, str], bool, Sequence[Instance]]]:
    """Each origin's instances, with how their ports are called; those last that an origin only keeps, which is said."""
    all_kept: list[tuple[str, Mapping[str, str], bool, Sequence[Instance]]] = []
    for snapshot, service in claims:
        listed: Sequence[Instance] = service.instances
        kept: Sequence[Instance] = ()
        if snapshot.kept:
            listed = [i for i in service.instances if (first.key, i.id) not in snapshot.kept]
            kept = [i for i in service.instances if (first.key, i.id) in snapshot.kept]
        renamed = _port_names(first.ports, service.ports)
        yield snapshot.origin.name, renamed, False, listed
        all_kept.append((snapshot.origin.name, renamed, True, kept))
    yield from all_kept


def _without_doubtful(
    claims: Sequence[tuple[Snapshot, Service]], rules: DoubtRules
) -> tuple[Sequence[tuple[Snapshot, Service]], tuple[Removed, ...]]:
    """The claims without the instances that are to be removed, unless no other one would serve.

    They go before duplicates do: a record without a renewal must not take the place of another registry's that is fine.
    """
    if not rules.remove:
        return claims, ()
    removed: list[Removed] = []
    left: list[tuple[Snapshot, Service]] = []
    for snapshot, service in claims:
        good = []
        for instance in service.instances:
            found = reason_to_remove(instance, rules)
            if found is None:
                good.append(instance)
            else:
                removed.append(Removed(service.key, instance, *found))
        whole = len(good) == len(service.instances)
        left.append((snapshot, service if whole else msgspec.structs.replace(service, instances=tuple(good))))
    if not removed or not any(i.serves for _, service in left for i in service.instances):
        return claims, ()
    return left, tuple(removed)


def _port_names(kept: tuple[Port, ...], other: tuple[Port, ...]) -> dict[str, str]:
    """How the ports of a later claim are called in the kept one: by name, by number, or as the only one each has."""
    names = {p.name for p in kept}
    numbers = {p.number: p.name for p in kept}
    renamed: dict[str, str] = {}
    for port in other:
        if port.name in names:
            renamed[port.name] = port.name
        elif port.number in numbers:
            renamed[port.name] = numbers[port.number]
        elif len(kept) == len(other) == 1:
            renamed[port.name] = kept[0].name
    return renamed


def _ports(snapshot: Snapshot, ports: tuple[Port, ...]) -> str:
    return f"{snapshot.origin.name}: " + ", ".join(f"{p.name} {p.number}/{p.protocol.value}" for p in ports)
