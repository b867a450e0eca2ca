"""The laws of blocking-query indexes and of the token bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.cursor import full_bucket, read_timeout, step

INDEXES = st.integers(min_value=0, max_value=2**64)


@given(asked=INDEXES, answered=INDEXES)
def test_a_loop_never_asks_with_zero_twice_unless_the_server_went_back(asked: int, answered: int) -> None:
    """0 is answered at once: a loop that keeps sending it does not block, it spins."""
    after = step(asked, answered)
    assert after.index >= 0
    assert (after.index == 0) == after.went_back
    assert not step(after.index, answered).went_back


@given(asked=INDEXES, answered=INDEXES)
def test_an_index_that_went_back_is_reported_and_starts_over(asked: int, answered: int) -> None:
    after = step(asked, answered)
    assert after.went_back == (max(1, answered) < asked)
    if not after.went_back:
        assert after.index >= answered


@given(index=st.integers(min_value=1, max_value=2**64))
def test_an_equal_index_has_not_moved_and_a_higher_one_has(index: int) -> None:
    assert not step(index, index).moved
    assert step(index, index + 1).moved


def test_the_first_answer_always_counts_as_moved() -> None:
    assert step(0, 0).moved
    assert step(0, 0).index == 1


@given(st.lists(INDEXES, max_size=20))
def test_whatever_a_server_answers_each_regression_is_seen_once(answers: list[int]) -> None:
    """The query after a regression asks with 0, so the answer to it is taken whatever its index is."""
    asked, last, went_back = 0, 1, False
    for answered in answers:
        after = step(asked, answered)
        assert after.went_back == (not went_back and max(1, answered) < last)
        asked, last, went_back = after.index, max(1, answered), after.went_back


@pytest.mark.parametrize("wait", [0.1, 10, 600])
def test_the_read_timeout_exceeds_what_a_server_may_add(wait: float) -> None:
    assert read_timeout(wait) > wait + wait / 16
    assert read_timeout(wait, slack=5) == pytest.approx(read_timeout(wait, slack=0) + 5)


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = full_bucket(burst=2, rate=0.5, now=100)
    waits = []
    for _ in range(4):
        bucket, wait = bucket.take(now=100)
        waits.append(wait)
    assert waits == [0, 0, 2, 4]


def test_a_bucket_fills_up_with_time_and_no_further() -> None:
    bucket, _ = full_bucket(burst=2, rate=1, now=0).take(now=0, cost=2)
    assert bucket.take(now=1)[1] == 0
    assert bucket.take(now=0.5)[1] == pytest.approx(0.5)
    later, _ = bucket.take(now=1_000_000, cost=2)
    assert later.take(now=1_000_000)[1] == 1


def test_a_cost_above_the_burst_passes_and_the_next_one_pays() -> None:
    bucket, wait = full_bucket(burst=10, rate=10, now=0).take(now=0, cost=100)
    assert wait == 0
    assert bucket.take(now=0)[1] == pytest.approx(9.1)


@given(
    burst=st.integers(1, 50),
    rate=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_in_any_window_a_bucket_grants_no_more_than_burst_and_rate(burst: int, rate: int, gaps: list[float]) -> None:
    """A loop that obeys the waits, from any moment on, is held to burst + rate x time."""
    bucket, now, granted = full_bucket(burst, rate, 0), 0.0, []
    for gap in gaps:
        bucket, wait = bucket.take(now)
        now += wait
        granted.append(now)
        now += gap
    for i, begin in enumerate(granted):
        for j in range(i, len(granted)):
            assert j - i + 1 <= burst + rate * (granted[j] - begin) + 1 + 1e-6


def test_a_clock_that_goes_back_grants_nothing() -> None:
    bucket, _ = full_bucket(burst=1, rate=1, now=100).take(now=100)
    bucket, wait = bucket.take(now=50)
    assert wait == 1
