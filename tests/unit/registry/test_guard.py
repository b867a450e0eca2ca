from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.guard import Guarded, GuardRules, ServiceGuard, expire, guard
from isthmus.registry.model import Snapshot
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

RULES = GuardRules(hold=60, shrink=0.5)
A, B, C = (mk_instance(n) for n in (1, 2, 3))


def ids(guarded: Guarded, name: str = "reviews") -> list[str]:
    service = guarded.admitted.services.get(mk_key(name))
    return [] if service is None else [i.id for i in service.instances]


def begin(*snapshot: Snapshot) -> Guarded:
    guarded = guard(None, snapshot[0], 0, relisted=True, rules=RULES)
    for s in snapshot[1:]:
        guarded = guard(guarded, s, 1, relisted=False, rules=RULES)
    return guarded


def test_an_instance_that_was_seen_to_go_is_gone() -> None:
    guarded = begin(
        mk_snapshot(mk_service("reviews", [A, B])), mk_snapshot(mk_service("reviews", [A]), changed=["reviews"])
    )

    assert ids(guarded) == ["i1"]
    assert not guarded.holds


def test_an_empty_registry_after_an_interruption_is_not_believed() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B]), mk_service("ratings", [C]), cursor="900"))

    guarded = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=RULES)

    assert ids(guarded) == ["i1", "i2"]
    assert ids(guarded, "ratings") == ["i3"]
    assert {h.reason for h in guarded.holds.values()} == {
        "the registry's position went back from 900 to 12: restarted empty or restored"
    }


def test_what_comes_back_is_no_longer_held_and_its_next_departure_counts() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B]), cursor="900"))
    empty = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=RULES)

    back = guard(empty, mk_snapshot(mk_service("reviews", [A]), changed=["reviews"]), 101, relisted=False, rules=RULES)
    gone = guard(back, mk_snapshot(mk_service("reviews"), changed=["reviews"]), 102, relisted=False, rules=RULES)

    assert ids(back) == ["i1", "i2"]
    assert [h.instance.id for h in back.holds.values()] == ["i2"]
    assert ids(gone) == ["i2"]


def test_a_hold_ends_when_the_same_place_is_registered_under_another_id() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A]), cursor="900"))
    empty = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=RULES)
    renamed = mk_service("reviews", [type(A)("other", "consul", A.address, A.ports)])

    back = guard(empty, mk_snapshot(renamed, changed=["reviews"]), 101, relisted=False, rules=RULES)

    assert ids(back) == ["other"]


def test_holds_end_by_themselves() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B]), cursor="900"))
    held = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=RULES)

    assert held.due == 160
    assert expire(held, 159) is held
    after = expire(held, 160)
    assert ids(after) == []
    assert after.admitted.changed == frozenset({mk_key("reviews")})


def test_a_few_absences_after_an_interruption_are_believed() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B, C]), cursor="900"))

    guarded = guard(before, mk_snapshot(mk_service("reviews", [A, B]), cursor="950"), 100, relisted=True, rules=RULES)

    assert ids(guarded) == ["i1", "i2"]


def test_a_sharp_shrink_after_an_interruption_is_not_believed() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B, C]), cursor="900"))

    guarded = guard(before, mk_snapshot(mk_service("reviews", [A]), cursor="950"), 100, relisted=True, rules=RULES)

    assert ids(guarded) == ["i1", "i2", "i3"]
    assert {h.reason for h in guarded.holds.values()} == {"only 1 of 3 instances were left after an interruption"}


@pytest.mark.parametrize("relisted", [True, False])
def test_absence_proves_nothing_while_the_adapter_doubts_it(relisted: bool) -> None:
    """Also in a live watch, and for as long as the doubt lasts."""
    before = begin(mk_snapshot(mk_service("reviews", [A, B])))
    doubtful = mk_snapshot(changed=["reviews"], doubt="filtered by ACLs")

    guarded = guard(before, doubtful, 100, relisted=relisted, rules=RULES)
    later = guard(guarded, doubtful, 10_000, relisted=False, rules=RULES)
    sure = guard(later, mk_snapshot(changed=[]), 10_001, relisted=False, rules=RULES)

    assert ids(guarded) == ids(later) == ["i1", "i2"]
    assert later.due is None
    assert ids(sure) == []
    assert sure.admitted.changed == frozenset({mk_key("reviews")})


@pytest.mark.parametrize("relisted", [True, False])
def test_a_doubt_about_one_service_holds_that_one_alone_and_for_as_long_as_it_lasts(relisted: bool) -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B]), mk_service("ratings", [C]), mk_service("details", [C])))
    doubts = {"reviews": "hidden by ACLs"}

    doubtful = mk_snapshot(
        mk_service("reviews", [B]), mk_service("details", [C]), changed=["reviews", "ratings"], doubts=doubts
    )
    guarded = guard(before, doubtful, 100, relisted=relisted, rules=RULES)
    quiet = mk_snapshot(mk_service("reviews", [B]), mk_service("details", [C]), changed=[], doubts=doubts)
    later = guard(guarded, quiet, 10_000, relisted=False, rules=RULES)
    sure = guard(
        later, msgspec.structs.replace(quiet, changed=frozenset(), doubts={}), 10_001, relisted=False, rules=RULES
    )

    assert ids(guarded) == ids(later) == ["i1", "i2"]
    assert ids(guarded, "ratings") == []
    assert {h.reason for h in later.holds.values()} == {"hidden by ACLs"}
    assert later.due is None
    assert ids(sure) == ["i2"]
    assert sure.admitted.changed == frozenset({mk_key("reviews")})


def test_a_hold_that_would_end_lasts_when_the_service_comes_into_doubt() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A]), cursor="900"))
    held = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=RULES)

    doubted = guard(
        held, mk_snapshot(changed=["reviews"], doubts={"reviews": "hidden"}), 110, relisted=False, rules=RULES
    )

    assert doubted.due is None
    assert ids(expire(doubted, 10_000)) == ["i1"]


def test_a_service_that_a_partial_listing_does_not_name_after_an_interruption_is_held_for_a_while() -> None:
    """What is missing from a service that it does name is gone."""
    before = begin(mk_snapshot(mk_service("reviews", [A]), mk_service("ratings", [B, C]), mk_service("details", [C])))

    partial = mk_snapshot(mk_service("ratings", [B]), mk_service("details", [C]), unlisted="ACLs hide services")
    guarded = guard(before, partial, 100, relisted=True, rules=RULES)

    assert ids(guarded) == ["i1"]
    assert ids(guarded, "ratings") == ["i2"]
    assert {h.reason for h in guarded.holds.values()} == {"ACLs hide services"}
    assert guarded.due == 160


def test_a_partial_list_holds_nothing_that_was_seen_to_go() -> None:
    guarded = begin(
        mk_snapshot(mk_service("reviews", [A]), unlisted="ACLs hide services"),
        mk_snapshot(changed=["reviews"], unlisted="ACLs hide services"),
    )

    assert ids(guarded) == []


def test_zero_seconds_switch_it_off() -> None:
    before = begin(mk_snapshot(mk_service("reviews", [A, B]), cursor="900"))

    guarded = guard(before, mk_snapshot(cursor="12"), 100, relisted=True, rules=GuardRules(hold=0))

    assert ids(guarded) == []


OWN = GuardRules(
    hold=60,
    shrink=0.5,
    services=(
        ServiceGuard("reviews", shrink=0.1, hold=900),
        ServiceGuard("batch-*", hold=0),
        ServiceGuard("canary*.default", shrink=1),
    ),
)


def relisted(before: Snapshot, after: Snapshot, rules: GuardRules) -> Guarded:
    return guard(guard(None, before, 0, relisted=True, rules=rules), after, 100, relisted=True, rules=rules)


MANY = mk_service("many", [mk_instance(n) for n in range(10, 20)])


def test_a_service_may_have_a_share_of_its_own() -> None:
    """The origin as a whole lost one of thirteen, which is nothing; of reviews it is a third."""
    guarded = relisted(
        mk_snapshot(mk_service("reviews", [A, B, C]), MANY), mk_snapshot(mk_service("reviews", [A, B]), MANY), OWN
    )

    (hold,) = guarded.holds.values()
    assert (hold.instance, hold.rule, hold.until) == (C, "guard.services reviews", 1000)
    assert hold.reason == "only 2 of its 3 instances were left after an interruption"


def test_a_service_within_its_own_share_is_believed_though_its_origin_shrank() -> None:
    before = mk_snapshot(mk_service("canary-1", [A, B, C]), MANY)
    guarded = relisted(before, mk_snapshot(mk_service("canary-1")), OWN)

    assert ids(guarded, "canary-1") == []
    assert len(ids(guarded, "many")) == 10
    assert {h.rule for h in guarded.holds.values()} == {"guard.shrink"}


@pytest.mark.parametrize("doubt", ["", "the server is syncing"])
def test_the_guard_can_be_off_for_some_services(doubt: str) -> None:
    before = mk_snapshot(mk_service("batch-1", [A]), mk_service("ratings", [B, C]), cursor="9")
    guarded = relisted(before, mk_snapshot(cursor="3", doubt=doubt), OWN)

    assert {h.key.name for h in guarded.holds.values()} == {"ratings"}


def test_the_guard_can_be_on_for_some_services_only() -> None:
    rules = GuardRules(hold=0, services=(ServiceGuard("reviews", hold=60),))
    before = mk_snapshot(mk_service("reviews", [A]), mk_service("ratings", [B, C]), cursor="9")
    guarded = relisted(before, mk_snapshot(cursor="3"), rules)

    assert {(h.key.name, h.rule, h.until) for h in guarded.holds.values()} == {("reviews", "position", 160)}


def test_the_first_rule_that_covers_a_service_counts() -> None:
    rules = GuardRules(services=(ServiceGuard("re*", hold=0), ServiceGuard("reviews", hold=60)))
    guarded = relisted(mk_snapshot(mk_service("reviews", [A]), cursor="9"), mk_snapshot(cursor="3"), rules)

    assert not guarded.holds


def test_what_was_seen_to_go_passes_whatever_share_a_service_has() -> None:
    begun = guard(None, mk_snapshot(mk_service("reviews", [A, B])), 0, relisted=True, rules=OWN)

    gone = mk_snapshot(mk_service("reviews", [A]), changed=["reviews"])

    assert ids(guard(begun, gone, 1, relisted=False, rules=OWN)) == ["i1"]
