from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.debounce import Debounce

QUIET, MAXIMUM = 2.0, 10.0
BUSY = Debounce(QUIET, MAXIMUM).event(99).fired(99)
"""Something was acted upon a moment before 100."""


def test_nothing_is_due_before_anything_happened() -> None:
    assert Debounce(QUIET, MAXIMUM).due is None


def test_what_comes_after_a_rest_is_acted_upon_at_once() -> None:
    assert Debounce(QUIET, MAXIMUM).event(100).due == 100
    assert BUSY.event(109).due == 109


def test_what_comes_soon_after_waits_for_quiet() -> None:
    assert BUSY.event(100).due == 102


def test_another_event_puts_it_off_until_the_maximum() -> None:
    debounce = BUSY.event(100).event(101)
    assert debounce.due == 103

    for now in (102.5, 104, 105.5, 107, 108.5):
        debounce = debounce.event(now)
    assert debounce.due == 110


def test_nothing_is_due_when_it_was_acted_upon() -> None:
    assert BUSY.event(100).fired(102).due is None


@given(st.lists(st.floats(0, 15), min_size=1, max_size=50))
def test_every_event_is_acted_upon_in_time(pauses: list[float]) -> None:
    """At once after a rest; else not before `quiet` has passed since the last one unless `maximum` has since the first."""
    debounce, now, first, acted = Debounce(QUIET, MAXIMUM), 0.0, None, -MAXIMUM
    for pause in pauses:
        now += pause
        if debounce.due is not None and debounce.due <= now:
            acted, first = max(debounce.due, acted), None
            debounce = debounce.fired(acted)
        debounce = debounce.event(now)
        first = now if first is None else first
        assert debounce.due is not None
        if first - acted >= MAXIMUM:
            assert debounce.due == first
        else:
            assert debounce.due == min(now + QUIET, first + MAXIMUM)
            assert now <= debounce.due <= first + MAXIMUM


@given(st.lists(st.floats(0, 3), min_size=2, max_size=200))
def test_a_burst_is_acted_upon_seldom(pauses: list[float]) -> None:
    """Once at its beginning, and then once for each `maximum` that it lasts, where nobody looks but when something happens."""
    debounce, now, times = Debounce(QUIET, MAXIMUM), 0.0, 0
    for pause in pauses:
        now += pause
        debounce = debounce.event(now)
        if debounce.due is not None and debounce.due <= now:
            debounce, times = debounce.fired(now), times + 1
    assert times <= 1 + now / MAXIMUM
