from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.debounce import Debounce

QUIET, MAXIMUM = 2.0, 10.0


def test_nothing_is_due_before_anything_happened() -> None:
    assert Debounce(QUIET, MAXIMUM).due is None


def test_one_event_waits_for_quiet() -> None:
    assert Debounce(QUIET, MAXIMUM).event(100).due == 102


def test_another_event_puts_it_off_until_the_maximum() -> None:
    debounce = Debounce(QUIET, MAXIMUM).event(100).event(101)
    assert debounce.due == 103

    for now in (102.5, 104, 105.5, 107, 108.5):
        debounce = debounce.event(now)
    assert debounce.due == 110


def test_it_begins_anew_when_it_was_acted_upon() -> None:
    assert Debounce(QUIET, MAXIMUM).event(100).fired() == Debounce(QUIET, MAXIMUM)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_every_event_is_acted_upon_in_time(pauses: list[float]) -> None:
    """Not before `quiet` has passed since the last one unless `maximum` has since the first, and never after that."""
    debounce, now, first = Debounce(QUIET, MAXIMUM), 0.0, None
    for pause in pauses:
        now += pause
        if debounce.due is not None and debounce.due <= now:
            debounce, first = debounce.fired(), None
        debounce = debounce.event(now)
        first = now if first is None else first
        assert debounce.due is not None
        assert debounce.due == min(now + QUIET, first + MAXIMUM)
        assert now <= debounce.due <= first + MAXIMUM
