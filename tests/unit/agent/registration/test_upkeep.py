"""When what is said about one registration."""

from __future__ import annotations

from isthmus.agent.registration.upkeep import Upkeep
from isthmus.registry.model import Health


def mk_upkeep() -> Upkeep:
    return Upkeep(every=10)


def test_it_registers_at_once_and_renews_later() -> None:
    upkeep = mk_upkeep()
    assert upkeep.to_put
    assert upkeep.due <= 100

    upkeep.did_put(Health.UNKNOWN, 100)

    assert upkeep.registered
    assert not upkeep.to_put
    assert upkeep.due == 110


def test_a_change_is_told_at_once() -> None:
    upkeep = mk_upkeep()
    upkeep.did_put(Health.UNKNOWN, 100)

    upkeep.report(Health.HEALTHY, "200", 103)

    assert upkeep.to_put
    assert upkeep.due == 103
    assert upkeep.since == 103


def test_the_same_again_is_nothing_new() -> None:
    upkeep = mk_upkeep()
    upkeep.report(Health.HEALTHY, "200", 100)
    upkeep.did_put(Health.HEALTHY, 101)

    upkeep.report(Health.HEALTHY, "204", 105)

    assert not upkeep.to_put
    assert upkeep.due == 111
    assert (upkeep.since, upkeep.why) == (100, "204")


def test_what_changed_while_it_was_told_is_told_next() -> None:
    upkeep = mk_upkeep()
    upkeep.report(Health.HEALTHY, "200", 100)
    upkeep.report(Health.UNHEALTHY, "refused", 101)

    upkeep.did_put(Health.HEALTHY, 102)

    assert upkeep.to_put
    assert upkeep.due == 102


def test_what_is_forgotten_is_registered_at_once() -> None:
    upkeep = mk_upkeep()
    upkeep.did_put(Health.UNKNOWN, 100)

    upkeep.did_renew(False, 110)

    assert not upkeep.registered
    assert upkeep.to_put
    assert upkeep.due == 110


def test_failures_are_repeated_ever_less_often_but_not_more_rarely_than_renewals() -> None:
    upkeep = mk_upkeep()
    pauses = []
    for _ in range(8):
        upkeep.failed("refused", 100, luck=1)
        pauses.append(upkeep.due - 100)
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    upkeep.failed("refused", 100, luck=0)
    assert upkeep.due == 105


def test_a_failure_has_the_date_of_the_first_one_until_it_is_over() -> None:
    upkeep = mk_upkeep()
    upkeep.did_put(Health.UNKNOWN, 100)
    upkeep.failed("refused", 110, luck=1)
    upkeep.failed("no answer", 111, luck=1)
    assert (upkeep.error, upkeep.failing_since, upkeep.registered) == ("no answer", 110, True)

    upkeep.did_renew(True, 112)

    assert upkeep.error == ""
    upkeep.failed("refused", 120, luck=1)
    assert (upkeep.failing_since, upkeep.due) == (120, 120.5)


def test_a_superseded_registration_is_over() -> None:
    upkeep = mk_upkeep()
    upkeep.did_put(Health.UNKNOWN, 100)

    upkeep.superseded("a newer agent", 110)

    assert upkeep.stopped
    assert not upkeep.registered
    assert not upkeep.to_put
