"""Laws of generations and versions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.xds.resource import Resource, ResourceSnapshot, SetVersion, TypeUrl
from isthmus.xds.store import EMPTY, Resources, derive, publish

worlds = st.dictionaries(
    st.sampled_from(list(TypeUrl)),
    st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=2), max_size=4),
    max_size=4,
)
World = dict[TypeUrl, dict[str, bytes]]


def resources(world: World) -> Resources:
    return {t: {n: Resource.of_bytes(t, n, body) for n, body in by_name.items()} for t, by_name in world.items()}


@given(st.lists(worlds, min_size=1, max_size=8))
def test_the_log_tells_from_any_generation_what_differs(history: list[World]) -> None:
    snapshot = EMPTY
    seen: dict[int, World] = {0: {}}
    for world in history:
        snapshot = publish(snapshot, resources(world))
        seen[snapshot.generation] = world
    for generation, old in seen.items():
        for type_url in TypeUrl:
            before, after = old.get(type_url, {}), seen[snapshot.generation].get(type_url, {})
            differing = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
            told = snapshot.changed_since(generation)
            assert told is not None
            assert differing <= told.get(type_url, frozenset())


@given(st.lists(worlds, min_size=1, max_size=8))
def test_versions_depend_on_content_alone(history: list[World]) -> None:
    """However a state was reached, its version is that of the state reached at once. Rule 28."""
    snapshot = EMPTY
    for world in history:
        snapshot = publish(snapshot, resources(world))
    for type_url in TypeUrl:
        assert snapshot.versions[type_url] == SetVersion.of(snapshot.of_type(type_url).values())


@given(worlds, worlds)
def test_hints_change_nothing(before: World, after: World) -> None:
    first = publish(EMPTY, resources(before))
    everything = {t: frozenset("abcd") for t in TypeUrl}

    assert publish(first, resources(after), everything, 1.0) == publish(first, resources(after), None, 1.0)


@given(worlds)
def test_nothing_new_is_the_same_generation(world: World) -> None:
    first = publish(EMPTY, resources(world))

    assert publish(first, resources(world)) is first


@given(st.lists(st.tuples(worlds, worlds, st.booleans()), min_size=1, max_size=8))
def test_what_is_derived_is_the_base_but_for_its_own_types(history: list[tuple[World, World, bool]]) -> None:
    """However often it was made, its content and versions are those of what it is, and its log tells what differs."""
    base = derived = EMPTY
    seen: list[ResourceSnapshot] = []
    own_types = (TypeUrl.LISTENER, TypeUrl.ROUTE)
    for world, other, is_made in history:
        base = publish(base, resources(world), after=derived.generation)
        if not is_made:
            continue
        own = {t: resources(other).get(t, {}) for t in own_types}
        derived = derive(derived, base, own)
        seen.append(derived)
        for type_url in TypeUrl:
            expected = own[type_url] if type_url in own_types else base.of_type(type_url)
            assert derived.of_type(type_url) == expected
            assert derived.versions[type_url] == SetVersion.of(expected.values())
        for before in seen:
            told = derived.changed_since(before.generation)
            if told is None:
                continue
            for type_url in TypeUrl:
                old, new = before.of_type(type_url), derived.of_type(type_url)
                assert {n for n in old.keys() | new.keys() if old.get(n) != new.get(n)} <= told.get(
                    type_url, frozenset()
                )


@given(worlds, worlds)
def test_a_derived_view_shares_what_is_remembered_while_it_is_numbered_like_its_base(one: World, two: World) -> None:
    """Where it alone has changed, it goes on by itself until the base changes too."""
    base = publish(EMPTY, resources(one))
    own = [{TypeUrl.LISTENER: resources({TypeUrl.LISTENER: {"x": body}})[TypeUrl.LISTENER]} for body in (b"1", b"2")]
    first = derive(EMPTY, base, own[0])
    alone = derive(first, base, own[1])
    assert first.memo is base.memo
    assert (alone.generation, alone.memo is base.memo) == (base.generation + 1, False)
    later = publish(base, resources(two), after=alone.generation)
    if later is not base:
        assert later.generation == alone.generation + 1
        assert derive(alone, later, own[0]).memo is later.memo
