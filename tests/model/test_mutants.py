"""The tests notice when a rule is broken: no mutant may survive the test that is named with it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from isthmus.xds.protocol import stream
from tests.model import test_exhaustive as exhaustive
from tests.model.mutants import MUTANTS, ORDERS, Killer, Mutant
from tests.model.test_streams_with_envoy import EnvoyOnBothVariants

TESTS = Path(__file__).resolve().parents[1]


def killer(name: str) -> str:
    """The test that must notice a mutant, as `path::name`."""
    found: Any = MUTANTS[name].killer if name in MUTANTS else EnvoyOnBothVariants
    if isinstance(found, str):
        found = exhaustive.test_whatever_happens
    if isinstance(found, partial):
        found = found.func
    return f"{Path(sys.modules[found.__module__].__file__ or '').relative_to(TESTS)}::{found.__name__}"


def kill(killer: Killer) -> None:
    """Run a test; without shrinking, as nobody reads the failure."""
    if not isinstance(killer, str | type):
        module = sys.modules[killer.__module__] if inspect.isfunction(killer) else None
        if module and "talk" in inspect.signature(killer).parameters:
            for kind in module.KINDS:
                killer(module.settled(kind))
        else:
            killer()
    elif isinstance(killer, str):
        for client in exhaustive.CLIENTS.values():
            exhaustive.search(exhaustive.UNIVERSES[killer], client)
    else:
        quiet = settings(
            max_examples=1000,
            stateful_step_count=50,
            phases=[Phase.generate],
            database=None,
            derandomize=True,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        run_state_machine_as_test(killer, settings=quiet)


def mutate(mutant: Mutant) -> Callable[..., object]:
    """The method with its text replaced, compiled where it stood."""
    found = inspect.getattr_static(mutant.owner, mutant.method)
    source = inspect.getsource(found.fget if isinstance(found, property) and found.fget else found)
    assert source.count(mutant.old) == 1, f"{mutant.method} has changed: {mutant.old!r}"
    names: dict[str, Callable[..., object]] = {}
    module = mutant.owner if isinstance(mutant.owner, ModuleType) else sys.modules[mutant.owner.__module__]
    exec(dedent(source.replace(mutant.old, mutant.new)), vars(module), names)  # noqa: S102 - the mutant is ours
    return names[mutant.method]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_machine_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    whole, broken = getattr(mutant.owner, mutant.method), mutate(mutant)
    monkeypatch.setattr(mutant.owner, mutant.method, broken)
    for module in list(sys.modules.values()):  # those that have imported a function from its own
        if isinstance(mutant.owner, ModuleType) and vars(module).get(mutant.method) is whole:
            monkeypatch.setattr(module, mutant.method, broken)
    with pytest.raises((AssertionError, LookupError)):
        kill(mutant.killer)


@pytest.mark.parametrize("name", ORDERS)
def test_a_broken_order_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TURNS", ORDERS[name])
    with pytest.raises((AssertionError, LookupError)):
        kill(EnvoyOnBothVariants)
