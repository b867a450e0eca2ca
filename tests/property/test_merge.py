"""Laws of merging."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.merge import differing, merge
from isthmus.registry.model import Instance, Origin, Port, Protocol, Service, ServiceKey, Snapshot

NAMES = ("reviews", "ratings", "details")
ORIGINS = ("consul", "eureka", "file")


@st.composite
def services(draw: st.DrawFn, origin: str, name: str) -> Service:
    port = draw(st.sampled_from([Port("http", 80, Protocol.HTTP), Port("tcp", 81, Protocol.TCP)]))
    numbers = draw(st.sets(st.integers(1, 4), max_size=4))
    instances = tuple(Instance(f"i{n}", origin, f"10.0.0.{n}", {port.name: 8080}) for n in sorted(numbers))
    return Service(ServiceKey("default", name), (port,), instances, frozenset({f"{name}.{origin}"}))


@st.composite
def snapshots(draw: st.DrawFn, origin: str) -> Snapshot:
    names = draw(st.sets(st.sampled_from(NAMES)))
    known = {(s := draw(services(origin, n))).key: s for n in sorted(names)}
    listed = sorted((key, i.id) for key, service in known.items() for i in service.instances)
    kept = draw(st.sets(st.sampled_from(listed), max_size=3)) if listed else set()
    return Snapshot(Origin(origin, "fake"), known, kept=frozenset(kept))


worlds = st.tuples(*(snapshots(o) for o in ORIGINS))


@given(worlds)
def test_merging_again_changes_nothing(world: tuple[Snapshot, ...]) -> None:
    once = merge(world)
    twice = merge(world, once)

    assert twice.catalog.services == once.catalog.services
    assert twice.catalog.changed == frozenset()


@given(worlds, worlds)
def test_hints_change_nothing_but_time(before: tuple[Snapshot, ...], after: tuple[Snapshot, ...]) -> None:
    """Merging with the previous state and with hints gives what merging from nothing gives."""
    hinted = [
        Snapshot(a.origin, a.services, changed=differing(b.services, a.services), kept=a.kept)
        for b, a in zip(before, after, strict=True)
    ]

    first = merge(before)
    whole = merge(after)
    following = merge(hinted, first)

    assert following.catalog.services == whole.catalog.services
    assert following.catalog.conflicts == whole.catalog.conflicts
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
