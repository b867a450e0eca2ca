"""From outcomes to verdicts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.probe.verdict import Verdict


def verdicts(outcomes: str, successes: int = 1, failures: int = 3) -> str:
    """`+` and `-` as outcomes; the verdict after each: `+`, `-` or `?`."""
    verdict = Verdict()
    said = ""
    for outcome in outcomes:
        verdict = verdict.after(outcome == "+", successes, failures)
        said += {None: "?", True: "+", False: "-"}[verdict.healthy]
    return said


def test_the_first_success_is_enough_by_default() -> None:
    assert verdicts("--+") == "??+"


def test_it_takes_as_many_failures_in_a_row_as_the_threshold_says() -> None:
    assert verdicts("+--+---+") == "++++++-+"


def test_before_any_success_it_is_unhealthy_after_the_threshold() -> None:
    assert verdicts("---") == "??-"


def test_it_takes_as_many_successes_in_a_row_as_the_threshold_says() -> None:
    assert verdicts("++-++---++", successes=2, failures=3) == "?++++++--+"


def test_outcomes_that_alternate_never_make_a_first_verdict_of_more_than_one() -> None:
    assert verdicts("+-+-+-", successes=2, failures=2) == "??????"


@given(st.text("+-", max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_a_verdict_is_what_the_last_row_that_was_long_enough_said(outcomes: str, successes: int, failures: int) -> None:
    expected = "?"
    for end in range(1, len(outcomes) + 1):
        if outcomes[:end].endswith("+" * successes):
            expected = "+"
        elif outcomes[:end].endswith("-" * failures):
            expected = "-"

    assert (verdicts(outcomes, successes, failures) or "?")[-1] == expected
