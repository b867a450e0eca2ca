"""Who lives, by the heartbeats of the feed."""

from __future__ import annotations

from isthmus.registry.eureka.liveness import SLACK, FeedState, Liveness

A, B = ("WEB", "a"), ("WEB", "b")


def mk_liveness() -> Liveness:
    liveness = Liveness(silent_after=60, now=0.0)
    for key in (A, B):
        liveness.heard(0.0)
        liveness.beat(key, 30, 0.0)
    return liveness


def test_an_instance_is_silent_when_the_server_has_no_renewal_either() -> None:
    liveness = mk_liveness()
    assert liveness.due(60 + SLACK) == []
    assert liveness.due(61 + SLACK) == [A, B]
    liveness.answered(A, 1000, 61 + SLACK)
    assert liveness.due(90 + SLACK) == [B], "asked again only when three are missing"
    assert liveness.silent == frozenset()
    liveness.answered(A, 1000, 91 + SLACK)
    assert liveness.silent == {A}


def test_an_instance_that_renews_with_another_server_lives() -> None:
    """That server may not feed us."""
    liveness = mk_liveness()
    liveness.answered(A, 1000, 62.0)
    liveness.answered(A, 31_000, 93.0)
    assert liveness.silent == frozenset()
    assert A not in liveness.due(150.0)


def test_an_instance_that_the_server_does_not_know_is_silent() -> None:
    liveness = mk_liveness()
    liveness.unknown(A)
    assert liveness.silent == {A}


def test_a_server_that_tells_no_renewals_proves_nothing() -> None:
    liveness = mk_liveness()
    for now in (62.0, 155.0, 250.0):
        liveness.answered(A, 0, now)
    assert liveness.silent == frozenset()


def test_a_heartbeat_ends_the_silence() -> None:
    liveness = mk_liveness()
    liveness.unknown(A)
    liveness.beat(A, 30, 100.0)
    assert liveness.silent == frozenset()


def test_each_instance_by_its_own_interval() -> None:
    liveness = mk_liveness()
    liveness.beat(B, 5, 0.0)
    assert liveness.due(11 + SLACK) == [B]


def test_a_feed_that_brings_nothing_says_nothing_about_anybody() -> None:
    """Never mass death: nobody is silent when the feed is."""
    liveness = mk_liveness()
    liveness.unknown(A)
    liveness.tick(60.0, anybody=True)
    assert liveness.silent == {A}
    liveness.tick(61.0, anybody=True)
    assert liveness.state is FeedState.SILENT
    assert liveness.silent == frozenset()
    assert liveness.due(1000.0) == []


def test_a_feed_that_never_brought_anything_is_silent() -> None:
    """The servers were not told of the bridge, perhaps."""
    liveness = Liveness(silent_after=60, now=0.0)
    states = []
    for now in (60.0, 61.0):
        liveness.tick(now, anybody=True)
        states.append(liveness.state)
    liveness.heard(62.0)
    assert [*states, liveness.state] == [FeedState.WAITING, FeedState.SILENT, FeedState.LIVE]


def test_an_empty_registry_has_nothing_to_say() -> None:
    liveness = Liveness(silent_after=60, now=0.0)
    liveness.tick(1000.0, anybody=False)
    liveness.tick(1059.0, anybody=True)
    assert liveness.state is FeedState.WAITING
