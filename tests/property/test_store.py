"""Laws of generations and versions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.xds.resource import Resource, SetVersion, TypeUrl
from isthmus.xds.store import EMPTY, Resources, publish

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
    """However a state was reached, its version is that of the state reached at once."""
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
