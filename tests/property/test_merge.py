"""Laws of merging."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from isthmus.registry.doubt import DoubtRules
from isthmus.registry.merge import MergeRules, differing, merge
from isthmus.registry.model import (
    Health,
    Instance,
    Origin,
    OutlierDetection,
    Port,
    Protocol,
    Service,
    ServiceKey,
    Snapshot,
)

NAMES = ("reviews", "ratings", "details")
ORIGINS = ("consul", "eureka", "file")


@st.composite
def services(draw: st.DrawFn, origin: str, name: str) -> Service:
    port = draw(st.sampled_from([Port("http", 80, Protocol.HTTP), Port("tcp", 81, Protocol.TCP)]))
    numbers = draw(st.sets(st.integers(1, 4), max_size=4))
    doubtful = draw(st.sets(st.sampled_from(sorted(numbers)))) if numbers else set()
    instances = tuple(
        Instance(
            f"i{n}", origin, f"10.0.0.{n}", {port.name: 8080}, provenance={"renewal": "missed"} if n in doubtful else {}
        )
        for n in sorted(numbers)
    )
    return Service(ServiceKey("default", name), (port,), instances, frozenset({f"{name}.{origin}"}))


@st.composite
def snapshots(draw: st.DrawFn, origin: str) -> Snapshot:
    names = draw(st.sets(st.sampled_from(NAMES)))
    known = {(s := draw(services(origin, n))).key: s for n in sorted(names)}
    listed = sorted((key, i.id) for key, service in known.items() for i in service.instances)
    kept = draw(st.sets(st.sampled_from(listed), max_size=3)) if listed else set()
    return Snapshot(Origin(origin, "fake"), known, kept=frozenset(kept))


RULES = (
    MergeRules(),
    MergeRules({"consul": 10}, {"eureka": OutlierDetection()}, DoubtRules(("NoRenewal",))),
)
worlds = st.tuples(*(snapshots(o) for o in ORIGINS))


@given(worlds)
def test_merging_again_changes_nothing(world: tuple[Snapshot, ...]) -> None:
    once = merge(world)
    twice = merge(world, once)

    assert twice.catalog.services == once.catalog.services
    assert twice.catalog.changed == frozenset()


@given(worlds, worlds, st.sampled_from(RULES))
def test_hints_change_nothing_but_time(
    before: tuple[Snapshot, ...], after: tuple[Snapshot, ...], rules: MergeRules
) -> None:
    """Merging with the previous state and with hints gives what merging from nothing gives."""
    hinted = [
        Snapshot(a.origin, a.services, changed=differing(b.services, a.services), kept=a.kept)
        for b, a in zip(before, after, strict=True)
    ]

    first = merge(before, rules=rules)
    whole = merge(after, rules=rules)
    following = merge(hinted, first, rules)

    assert following.catalog.services == whole.catalog.services
    assert following.catalog.conflicts == whole.catalog.conflicts
    assert following.catalog.removed == whole.catalog.removed
    assert following.catalog.changed == differing(first.catalog.services, whole.catalog.services)


@given(worlds)
def test_no_instance_is_invented_or_lost(world: tuple[Snapshot, ...]) -> None:
    """Every place that some origin lists is in the catalog once, unless its ports cannot be matched."""
    catalog = merge(world).catalog
    for key, service in catalog.services.items():
        places = [(i.address, n) for i in service.instances for n in i.ports.values()]
        claimed = {
            (i.address, n)
            for s in world
            if key in s.services
            for i in s.services[key].instances
            for n in i.ports.values()
        }
        assert len(places) == len(set(places))
        assert set(places) == claimed
    assert catalog.services.keys() == set().union(*(s.services for s in world))


@given(worlds, st.permutations(range(len(ORIGINS))))
def test_order_matters_only_for_precedence(world: tuple[Snapshot, ...], order: list[int]) -> None:
    one, other = merge(world).catalog, merge([world[i] for i in order]).catalog

    assert one.services.keys() == other.services.keys()
    for key in one.services:
        assert {i.address for i in one.services[key].instances} == {i.address for i in other.services[key].instances}


@given(worlds)
def test_the_first_origin_names_the_ports(world: tuple[Snapshot, ...]) -> None:
    catalog = merge(world).catalog
    for key, service in catalog.services.items():
        assert service.ports == next(s.services[key].ports for s in world if key in s.services)


SERVING = (Health.HEALTHY, Health.UNKNOWN)
SHARES = MergeRules({"consul": 30, "eureka": 70})


@st.composite
def one_service(draw: st.DrawFn, origin: str, octet: int) -> Snapshot:
    """A service of instances in any health, at addresses that are this origin's alone."""
    said = draw(st.lists(st.tuples(st.sampled_from(Health), st.integers(1, 9)), min_size=1, max_size=6))
    instances = tuple(
        Instance(f"{origin}-{n}", origin, f"10.0.{octet}.{n}", {"http": 8080}, health, weight)
        for n, (health, weight) in enumerate(said)
    )
    service = Service(ServiceKey("default", "reviews"), (Port("http", 80, Protocol.HTTP),), instances)
    return Snapshot(Origin(origin, "fake"), {service.key: service})


@given(one_service("consul", 1), one_service("eureka", 2))
def test_shares_hold_among_the_instances_that_get_requests(consul: Snapshot, eureka: Snapshot) -> None:
    """However many of an origin's instances are ill: those take nothing from its share, and have none."""
    (service,) = merge([consul, eureka], rules=SHARES).catalog.services.values()
    served = {o: sum(i.weight for i in service.instances if i.origin == o and i.health in SERVING) for o in ORIGINS}
    assume(served["consul"] and served["eureka"])

    assert served["consul"] / (served["consul"] + served["eureka"]) == pytest.approx(0.3, abs=0.005)


@given(one_service("consul", 1), one_service("eureka", 2), st.sampled_from([Health.UNHEALTHY, Health.DRAINING]))
def test_an_origin_that_cannot_serve_leaves_the_requests_to_the_other(
    consul: Snapshot, eureka: Snapshot, health: Health
) -> None:
    """None of its instances can get any, and each of the other's that can keeps a weight."""
    (key, service), *_ = eureka.services.items()
    ill = tuple(msgspec.structs.replace(i, health=health) for i in service.instances)
    eureka = msgspec.structs.replace(eureka, services={key: msgspec.structs.replace(service, instances=ill)})

    (merged,) = merge([consul, eureka], rules=SHARES).catalog.services.values()

    assert {i.origin for i in merged.instances if i.serves} <= {"consul"}
    before = {i.id for s in consul.services.values() for i in s.instances if i.serves}
    assert {i.id for i in merged.instances if i.serves} == before
