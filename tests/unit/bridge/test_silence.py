"""Who is taken for gone, and who is held though silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.silence import LONGEST_PERIOD, MANY, Judgement, Listener, Rules, judge, period

RULES = Rules(hold=300, shrink=0.5)


def mk_listeners(*heard: float, bridge: str = "me", ttl: float = 30) -> list[Listener]:
    return [Listener(f"w{n}", bridge, ttl, at) for n, at in enumerate(heard)]


def test_who_is_silent_for_its_ttl_is_gone() -> None:
    assert judge(mk_listeners(100), "me", {}, 129.9, RULES) == Judgement()
    assert judge(mk_listeners(100), "me", {}, 130, RULES) == Judgement(gone=("w0",))


def test_where_there_are_other_replicas_their_news_are_waited_for() -> None:
    rules = Rules(hold=300, shrink=0.5, slack=20)
    assert judge(mk_listeners(100), "me", {}, 149, rules) == Judgement()
    assert judge(mk_listeners(100), "me", {}, 150, rules) == Judgement(gone=("w0",))


def test_who_is_watched_over_by_one_that_lives_is_not_judged() -> None:
    assert judge(mk_listeners(100, bridge="other"), "me", {}, 10_000, RULES) == Judgement()


def test_a_replica_that_falls_silent_is_no_evidence_until_the_hold_is_over() -> None:
    """Its workloads may have nobody else to be heard by: they are given their TTL again, and the hold."""
    listeners = mk_listeners(100, bridge="other")
    assert judge(listeners, "me", {"other": 110}, 139, RULES) == Judgement()
    assert judge(listeners, "me", {"other": 110}, 140, RULES) == Judgement(held=("w0",))
    assert judge(listeners, "me", {"other": 110}, 439, RULES) == Judgement(held=("w0",))
    assert judge(listeners, "me", {"other": 110}, 440, RULES) == Judgement(gone=("w0",))


def test_many_at_once_are_held() -> None:
    """It is more likely that they cannot reach the bridge than that most of them have died in one moment."""
    assert judge(mk_listeners(*[100] * 6, 200, 200), "me", {}, 200, RULES) == Judgement(
        held=("w0", "w1", "w2", "w3", "w4", "w5")
    )
    assert len(judge(mk_listeners(*[100] * 6, 200, 200), "me", {}, 430, RULES).gone) == 6
    assert len(judge(mk_listeners(*[100] * 5, *[200] * 5), "me", {}, 200, RULES).gone) == 5, "half of them are few"
    assert len(judge(mk_listeners(*[100] * (MANY - 1)), "me", {}, 200, RULES).gone) == MANY - 1, "so are these"


def test_without_a_hold_all_is_believed() -> None:
    rules = Rules(hold=0, shrink=0.5)
    assert len(judge(mk_listeners(*[100] * 9), "me", {}, 130, rules).gone) == 9
    assert len(judge(mk_listeners(100, bridge="other"), "me", {"other": 100}, 130, rules).gone) == 1


listeners = st.builds(
    Listener,
    id=st.uuids().map(str),
    bridge=st.sampled_from(["me", "alive", "silent"]),
    ttl=st.integers(1, 100).map(float),
    heard=st.floats(0, 1000),
)


@given(st.lists(listeners, max_size=20), st.floats(0, 2000), st.floats(0, 100))
def test_nobody_is_gone_who_was_heard_within_its_ttl(known: list[Listener], now: float, hold: float) -> None:
    judged = judge(known, "me", {"silent": 500.0}, now, Rules(hold, 0.5))
    by_id = {one.id: one for one in known}
    for id_ in (*judged.gone, *judged.held):
        assert by_id[id_].heard + by_id[id_].ttl <= now
        assert by_id[id_].bridge != "alive"
    assert not set(judged.gone) & set(judged.held)


def test_signs_of_life_come_several_times_in_the_shortest_ttl() -> None:
    assert period([]) == LONGEST_PERIOD
    assert period([30, 60]) == 10
    assert period([3, 60]) == 1
    assert period([1]) == 0.5
