from __future__ import annotations

from isthmus.registry.drain import Drained, DrainRules, drain, leave
from isthmus.registry.model import Health, Instance, Snapshot
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

RULES = DrainRules(grace=10)
A, B = mk_instance(1), mk_instance(2)


def shown(drained: Drained, name: str = "reviews") -> dict[str, Health]:
    service = drained.shown.services.get(mk_key(name))
    return {} if service is None else {i.id: i.health for i in service.instances}


def run(*snapshots: Snapshot, every: float = 1) -> Drained:
    drained = drain(None, snapshots[0], 0, RULES)
    for n, snapshot in enumerate(snapshots[1:], 1):
        drained = drain(drained, snapshot, n * every, RULES)
    return drained


def test_what_leaves_drains_and_is_then_gone() -> None:
    drained = run(
        mk_snapshot(mk_service("reviews", [A, B])), mk_snapshot(mk_service("reviews", [A]), changed=["reviews"])
    )

    assert shown(drained) == {"i1": Health.HEALTHY, "i2": Health.DRAINING}
    assert drained.due == 11
    assert leave(drained, 10.9) is drained
    after = leave(drained, 11)
    assert shown(after) == {"i1": Health.HEALTHY}
    assert after.shown.changed == frozenset({mk_key("reviews")})
    assert after.due is None


def test_a_service_that_leaves_with_its_last_instance_keeps_its_ports_meanwhile() -> None:
    drained = run(mk_snapshot(mk_service("reviews", [A], port=9080)), mk_snapshot(changed=["reviews"]))

    assert shown(drained) == {"i1": Health.DRAINING}
    assert drained.shown.services[mk_key("reviews")].ports[0].number == 9080
    assert shown(leave(drained, 11)) == {}


def test_what_comes_back_is_simply_there_again() -> None:
    there, gone = (
        mk_snapshot(mk_service("reviews", [A, B])),
        mk_snapshot(mk_service("reviews", [A]), changed=["reviews"]),
    )
    back = mk_snapshot(mk_service("reviews", [A, B]), changed=["reviews"])

    assert shown(run(there, gone, back)) == {"i1": Health.HEALTHY, "i2": Health.HEALTHY}


def test_a_re_registration_at_a_new_address_leaves_no_shadow_at_the_old_one() -> None:
    moved = Instance(A.id, A.origin, "10.9.9.9", A.ports)

    drained = run(
        mk_snapshot(mk_service("reviews", [A])), mk_snapshot(mk_service("reviews", [moved]), changed=["reviews"])
    )

    assert shown(drained) == {"i1": Health.HEALTHY}
    assert drained.shown.services[mk_key("reviews")].instances[0].address == "10.9.9.9"


def test_an_instance_that_was_not_serving_goes_at_once() -> None:
    dead = mk_instance(2, health=Health.UNHEALTHY)

    drained = run(
        mk_snapshot(mk_service("reviews", [A, dead])), mk_snapshot(mk_service("reviews", [A]), changed=["reviews"])
    )

    assert shown(drained) == {"i1": Health.HEALTHY}


def test_further_changes_do_not_prolong_the_grace() -> None:
    there, gone = (
        mk_snapshot(mk_service("reviews", [A, B])),
        mk_snapshot(mk_service("reviews", [A]), changed=["reviews"]),
    )
    again = mk_snapshot(mk_service("reviews", [mk_instance(1, weight=3)]), changed=["reviews"])

    drained = run(there, gone, again)

    assert shown(drained) == {"i1": Health.HEALTHY, "i2": Health.DRAINING}
    assert drained.due == 11
    assert shown(run(there, gone, again, every=11)) == {"i1": Health.HEALTHY}


def test_a_whole_listing_without_hints_is_compared() -> None:
    drained = run(
        mk_snapshot(mk_service("reviews", [A]), mk_service("ratings", [B])), mk_snapshot(mk_service("ratings", [B]))
    )

    assert shown(drained) == {"i1": Health.DRAINING}
    assert drained.shown.changed is None


def test_no_grace_means_at_once() -> None:
    before = drain(None, mk_snapshot(mk_service("reviews", [A])), 0, DrainRules(grace=0))

    assert shown(drain(before, mk_snapshot(changed=["reviews"]), 1, DrainRules(grace=0))) == {}
