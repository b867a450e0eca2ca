from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.drain import DrainRules, drain
from isthmus.registry.guard import GuardRules, guard
from isthmus.registry.merge import MergeRules, merge
from isthmus.registry.model import Instance, Service
from isthmus.registry.reuse import REMEMBERED, once, once_mapping, reuse, reuse_services
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

MANY = [mk_instance(n) for n in range(1, 40)]


def read_again(instances: list[Instance]) -> list[Instance]:
    """Equal instances, made anew, as an adapter makes them of every answer."""
    return [msgspec.structs.replace(i, ports=dict(i.ports)) for i in instances]


def altered(service: Service, before: Service) -> set[str]:
    """Ids of the instances that are not the very objects of before."""
    known = {id(i) for i in before.instances}
    return {i.id for i in service.instances if id(i) not in known}


def test_equal_instances_stay_the_same_objects() -> None:
    before = mk_service("web", MANY)
    now = mk_service("web", [*read_again(MANY[:-1]), mk_instance(39, weight=5), mk_instance(99)])

    reused = reuse(before, now)

    assert reused == now
    assert altered(reused, before) == {"i39", "i99"}


def test_an_equal_service_stays_the_same_object() -> None:
    before = mk_service("web", MANY)
    assert reuse(before, mk_service("web", read_again(MANY))) is before


def test_services_beyond_the_hint_are_not_compared() -> None:
    before = mk_snapshot(mk_service("web", MANY), mk_service("db", MANY))
    now = mk_snapshot(mk_service("web", read_again(MANY)), mk_service("db", read_again(MANY)), changed=["web"])

    reused = reuse_services(before, now)

    assert reused == now
    assert reused.services[mk_key("web")] is before.services[mk_key("web")]
    assert reused.services[mk_key("db")] is now.services[mk_key("db")]


@pytest.mark.parametrize("rules", [MergeRules(), MergeRules({"consul": 90, "nomad": 10})], ids=["plain", "weights"])
def test_one_changed_instance_is_the_only_new_object_in_the_catalog(rules: MergeRules) -> None:
    """However many its service has, though the adapter reads all of them anew, and another registry knows it as well."""
    other = mk_snapshot(mk_service("web", [mk_instance(300, origin="nomad")]), origin="nomad")
    changed = mk_instance(39, labels={"version": "v2"})
    snapshots = (
        mk_snapshot(mk_service("web", MANY)),
        mk_snapshot(mk_service("web", [*read_again(MANY[:-1]), changed]), changed=["web"]),
    )

    guarded, drained, merged = None, None, None
    catalogs: list[Service] = []
    for now, snapshot in enumerate(snapshots):
        guarded = guard(guarded, snapshot, now, relisted=False, rules=GuardRules())
        drained = drain(drained, guarded.admitted, now, DrainRules())
        merged = merge([drained.shown, other], merged, rules)
        catalogs.append(merged.catalog.services[mk_key("web")])

    before, after = catalogs
    assert altered(after, before) == {"i39"}


def test_what_is_equal_is_kept_once() -> None:
    """Of different values those are known again that were met last, so that what nobody has any more is forgotten."""
    labels = once_mapping({"version": "v1"})
    assert once_mapping({"version": "v1"}) is labels
    assert once_mapping({"version": "v2"}) == {"version": "v2"}
    assert once(("a", str(1))) is once(("a", str(1)))

    for n in range(REMEMBERED):
        once_mapping({"version": f"other {n}"})
    again = once_mapping({"version": "v1"})
    assert again == labels
    assert again is not labels
