"""Shares of the traffic between registries that know the same service."""

from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.merge import MergeRules, merge
from isthmus.registry.model import Health
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

OLD = mk_snapshot(mk_service("reviews", [mk_instance(n, origin="eureka") for n in (1, 2, 3)]), origin="eureka")
NEW = mk_snapshot(mk_service("reviews", [mk_instance(9, origin="consul", weight=5)]), origin="consul")


def share(weights: dict[str, int], origin: str = "consul") -> float:
    service = merge([OLD, NEW], rules=MergeRules(weights)).catalog.services[mk_key("reviews")]
    total = sum(i.weight for i in service.instances)
    return sum(i.weight for i in service.instances if i.origin == origin) / total


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 90, 100])
def test_an_origin_gets_its_share(percent: int) -> None:
    assert share({"eureka": 100 - percent, "consul": percent}) == pytest.approx(percent / 100, abs=0.005)


def test_without_shares_each_instance_counts_by_its_own_weight() -> None:
    assert share({}) == pytest.approx(5 / 8)


def test_a_service_that_one_origin_knows_alone_keeps_its_weights() -> None:
    """Also if that origin's share is nothing: there is nobody else to send the requests to."""
    merged = merge([NEW], rules=MergeRules({"consul": 0})).catalog

    assert [i.weight for i in merged.services[mk_key("reviews")].instances] == [5]


def test_an_origin_whose_instances_are_leaving_has_no_share() -> None:
    """It has let them go: what they are drained of has to go somewhere, whatever share that one has."""
    leaving = mk_instance(1, origin="eureka", health=Health.DRAINING)
    eureka = mk_snapshot(mk_service("reviews", [leaving]), origin="eureka")
    weights = MergeRules({"eureka": 100, "consul": 0})

    listed = merge([eureka, NEW], rules=weights).catalog.services[mk_key("reviews")]
    eureka = msgspec.structs.replace(eureka, kept=frozenset({(mk_key("reviews"), leaving.id)}))
    gone = merge([eureka, NEW], rules=weights).catalog.services[mk_key("reviews")]

    assert [i.weight for i in listed.instances if i.origin == "consul"] == [0]
    assert [i.weight for i in gone.instances if i.origin == "consul"] == [5]


def test_within_an_origin_the_instances_keep_their_proportion() -> None:
    both = mk_snapshot(mk_service("reviews", [mk_instance(1, weight=1), mk_instance(2, weight=3)]), origin="consul")
    merged = merge([both, OLD], rules=MergeRules({"consul": 20, "eureka": 80})).catalog.services[mk_key("reviews")]
    one, three = (next(i.weight for i in merged.instances if i.id == n and i.origin == "consul") for n in ("i1", "i2"))

    assert three == pytest.approx(3 * one, rel=0.01)


def test_another_share_changes_every_service_that_is_shared() -> None:
    before = merge([OLD, NEW], rules=MergeRules({"consul": 10}))

    after = merge([OLD, NEW], before, MergeRules({"consul": 20}))

    assert after.catalog.changed == frozenset({mk_key("reviews")})
