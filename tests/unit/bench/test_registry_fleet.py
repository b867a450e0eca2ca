"""The services that the registry benchmark makes up."""

from __future__ import annotations

import itertools
import random

import pytest

from bench.registry.population import INSTANCES, Fleet, Kind, State


@pytest.mark.parametrize("kind", ["health", "weight", "address"])
def test_each_change_is_seen_in_the_catalog(kind: Kind) -> None:
    """A change that left an instance as it was would be waited for in vain."""
    fleet = Fleet(2)
    states = [fleet.state(1, 3)] + [fleet.change(1, 3, kind) for _ in range(40)]
    seen = [(s.address, s.weight, s.healthy) for s in states]
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert all(1 <= s.weight <= 128 for s in states)
    assert fleet.state(1, 3) == states[-1]


def test_no_two_instances_ever_have_the_same_address() -> None:
    """An instance is told from others by its address, wherever it has moved."""
    states = [State(s, i, place=place) for s in (0, 255, 256, 4_999) for i in range(INSTANCES) for place in range(20)]
    assert len({state.address for state in states}) == len(states)


def test_churn_changes_each_instance_once() -> None:
    """So that no change is waited for that a later one has overtaken."""
    states = Fleet(50).churn(300, ("health", "weight", "address"), random.Random(1))
    assert len({state.id for state in states}) == len(states) == 300


def test_changes_one_by_one_are_of_the_services_named_and_of_the_kinds_in_turn() -> None:
    states = Fleet(9).changes([7, 2, 5], ("health", "address"), random.Random(1))
    assert [(s.service, s.healthy, s.place) for s in states] == [(7, False, 0), (2, True, 1), (5, False, 0)]
