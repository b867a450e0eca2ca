"""Several registries know the same service (tests/property/test_merge.py has the laws)."""

from __future__ import annotations

import msgspec

from isthmus.registry.doubt import DoubtRules
from isthmus.registry.merge import MergeRules, merge
from isthmus.registry.model import Catalog, Health, Instance, OutlierDetection, Protocol, Service, Snapshot
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

REVIEWS = mk_key("reviews")


def catalog(**services: Service) -> Catalog:
    """What origins make together, each of which knows one service; in the order given."""
    return merge([mk_snapshot(s, origin=origin) for origin, s in services.items()]).catalog


def ids(of: Catalog) -> list[str]:
    return [i.id for i in of.services[REVIEWS].instances]


def mk(number: int, origin: str, **changes: object) -> Instance:
    return msgspec.structs.replace(mk_instance(number, origin=origin), **changes)


def test_services_of_one_registry_alone_are_taken_as_they_are() -> None:
    one, two = mk_service("reviews", [mk_instance(1)]), mk_service("details", [mk_instance(2)])

    assert catalog(consul=one, eureka=two).services == {one.key: one, two.key: two}


def test_instances_of_both_serve() -> None:
    merged = catalog(consul=mk_service("reviews", [mk(1, "consul")]), files=mk_service("reviews", [mk(2, "files")]))

    assert ids(merged) == ["i1", "i2"]
    assert merged.conflicts == ()


def test_an_instance_that_both_list_is_one_and_the_first_ones() -> None:
    """It is known by where it serves, whatever it is called; health and weight are the first origin's word."""
    first = mk(1, "consul", id="reviews-1", health=Health.DRAINING)
    second = mk(1, "eureka", id="host:reviews:8080")

    (instance,) = (
        catalog(consul=mk_service("reviews", [first]), eureka=mk_service("reviews", [second]))
        .services[REVIEWS]
        .instances
    )

    assert instance == first


def test_two_instances_of_one_name_are_told_apart() -> None:
    merged = catalog(
        consul=mk_service("reviews", [mk(1, "consul", id="a")]), eureka=mk_service("reviews", [mk(2, "eureka", id="a")])
    )

    assert ids(merged) == ["a", "eureka/a"]


def test_ports_are_the_first_origins_and_a_disagreement_is_a_conflict() -> None:
    """Port names of the later origin are translated where a number, or there being only one, says which is meant."""
    first = mk_service("reviews", [mk(1, "consul")], port=80)
    second = mk_service("reviews", [mk(2, "eureka", ports={"grpc": 9090})], port=8080, protocol=Protocol.GRPC)

    merged = catalog(consul=first, eureka=second)

    assert merged.services[REVIEWS].ports == first.ports
    assert [i.ports for i in merged.services[REVIEWS].instances] == [{"http": 8080}, {"http": 9090}]
    (conflict,) = merged.conflicts
    assert conflict.subject == "ports of reviews.default"
    assert (conflict.kept, conflict.dropped) == ("consul: http 80/http", "eureka: grpc 8080/grpc")


def test_host_names_are_united() -> None:
    first = msgspec.structs.replace(mk_service("reviews"), hostnames=frozenset({"reviews.service.consul"}))
    second = msgspec.structs.replace(mk_service("reviews"), hostnames=frozenset({"REVIEWS-VIP"}))

    assert catalog(a=first, b=second).services[REVIEWS].hostnames == {"reviews.service.consul", "REVIEWS-VIP"}


def test_what_the_first_no_longer_knows_the_second_still_does() -> None:
    """The basis of every migration: a service may leave one registry while another has it."""
    second = mk_snapshot(mk_service("reviews", [mk(1, "eureka")]), origin="eureka")
    before = merge([mk_snapshot(mk_service("reviews", [mk(1, "consul")])), second])

    after = merge([mk_snapshot(changed=["reviews"]), second], before)

    assert [i.origin for i in after.catalog.services[REVIEWS].instances] == ["eureka"]
    assert after.catalog.changed == frozenset({REVIEWS})


def test_an_origin_that_is_gone_takes_with_it_what_it_alone_knew() -> None:
    both = [
        mk_snapshot(mk_service("reviews", [mk(1, "consul")])),
        mk_snapshot(mk_service("details", [mk(2, "files")]), origin="files"),
    ]

    after = merge(both[:1], merge(both))

    assert set(after.catalog.services) == {REVIEWS}
    assert after.catalog.changed == frozenset({mk_key("details")})


def test_an_instance_that_moves_to_another_registry_goes_on() -> None:
    """The first registry has let it go and drains it, the second lists it: it is not drained."""
    leaving = mk(1, "eureka", health=Health.DRAINING)
    eureka = mk_snapshot(mk_service("reviews", [leaving, mk(2, "eureka")]), origin="eureka")
    eureka = msgspec.structs.replace(eureka, kept=frozenset({(REVIEWS, leaving.id)}))
    consul = mk_snapshot(mk_service("reviews", [mk(1, "consul")]), origin="consul")

    apart, together = merge([eureka]).catalog, merge([eureka, consul]).catalog

    assert [i.health for i in apart.services[REVIEWS].instances] == [Health.DRAINING, Health.HEALTHY]
    assert [(i.origin, i.health) for i in together.services[REVIEWS].instances] == [
        ("consul", Health.HEALTHY),
        ("eureka", Health.HEALTHY),
    ]


def test_maintenance_in_the_first_registry_is_no_leaving() -> None:
    """It is still listed there: the order of the registries decides."""
    draining = mk(1, "consul", health=Health.DRAINING)

    merged = catalog(consul=mk_service("reviews", [draining]), files=mk_service("reviews", [mk(1, "files")]))

    assert merged.services[REVIEWS].instances == (draining,)


SLOW = MergeRules(outlier_detection={"eureka": OutlierDetection(consecutive_failures=2)})


def test_a_service_of_a_registry_that_notices_crashes_late_is_watched_by_its_callers() -> None:
    """Also where a registry that notices them at once knows it too: the instances of the other one are among them."""
    eureka = mk_snapshot(mk_service("reviews", [mk(1, "eureka")]), mk_service("ratings"), origin="eureka")
    consul = mk_snapshot(mk_service("reviews", [mk(2, "consul")]), mk_service("details"), origin="consul")

    merged = merge([consul, eureka], rules=SLOW).catalog.services

    assert {k.name: s.outlier_detection for k, s in merged.items()} == {
        "reviews": OutlierDetection(consecutive_failures=2),
        "ratings": OutlierDetection(consecutive_failures=2),
        "details": None,
    }


def test_the_first_registry_that_says_so_sets_the_limits() -> None:
    eureka, consul = (mk_snapshot(mk_service("reviews"), origin=o) for o in ("eureka", "consul"))
    rules = MergeRules(outlier_detection={"eureka": OutlierDetection(2), "consul": OutlierDetection(9)})

    merged = merge([consul, eureka], rules=rules).catalog.services[REVIEWS]

    assert merged.outlier_detection == OutlierDetection(9)


def test_other_limits_reach_every_service() -> None:
    eureka = mk_snapshot(mk_service("reviews"), origin="eureka")

    after = merge([eureka], merge([eureka], rules=SLOW), MergeRules()).catalog

    assert after.services[REVIEWS].outlier_detection is None
    assert after.changed == frozenset({REVIEWS})


LATE = {"renewal": "overdue"}
REMOVE = MergeRules(doubt=DoubtRules(("NoRenewal",)))


def test_nothing_is_removed_by_doubt_unless_configured() -> None:
    doubtful = mk_snapshot(mk_service("reviews", [mk(1, "eureka", provenance=LATE), mk(2, "eureka")]), origin="eureka")

    assert ids(merge([doubtful]).catalog) == ["i1", "i2"]
    assert ids(merge([doubtful], rules=MergeRules(doubt=DoubtRules(("PortZero",)))).catalog) == ["i1", "i2"]


def test_a_doubtful_instance_is_taken_out_if_the_operator_says_so() -> None:
    doubtful = mk_snapshot(mk_service("reviews", [mk(1, "eureka", provenance=LATE), mk(2, "eureka")]), origin="eureka")

    merged = merge([doubtful], rules=REMOVE).catalog

    assert ids(merged) == ["i2"]
    (removed,) = merged.removed[REVIEWS]
    assert (removed.instance.id, removed.code, removed.text) == ("i1", "NoRenewal", "without a renewal in time")


def test_the_last_ones_that_could_serve_stay_however_doubtful() -> None:
    """Better a zombie than nobody: where all are doubtful, the evidence is."""
    instances = [mk(1, "eureka", provenance=LATE), mk(2, "eureka", provenance=LATE), mk(3, "eureka", weight=0)]

    merged = merge([mk_snapshot(mk_service("reviews", instances), origin="eureka")], rules=REMOVE).catalog

    assert ids(merged) == ["i1", "i2", "i3"]
    assert merged.removed == {}


def test_a_doubtful_record_does_not_take_the_place_of_a_good_one() -> None:
    """Eureka has had no renewal of what Consul knows to be well, at the same address."""
    eureka = mk_snapshot(mk_service("reviews", [mk(1, "eureka", provenance=LATE)]), origin="eureka")
    consul = mk_snapshot(mk_service("reviews", [mk(1, "consul")]), origin="consul")

    merged = merge([eureka, consul], rules=REMOVE).catalog

    assert [i.origin for i in merged.services[REVIEWS].instances] == ["consul"]


def test_an_instance_comes_back_when_the_doubt_is_over() -> None:
    def spring(**provenance: str) -> Snapshot:
        service = mk_service("reviews", [mk(1, "eureka", provenance=provenance), mk(2, "eureka")])
        return mk_snapshot(service, origin="eureka", changed=["reviews"])

    before = merge([spring(renewal="missed")], rules=REMOVE)
    after = merge([spring()], before, REMOVE)

    assert (ids(before.catalog), ids(after.catalog)) == (["i2"], ["i1", "i2"])
    assert after.catalog.removed == {}


def test_an_instance_that_may_be_dead_gets_part_of_its_weight() -> None:
    """The others' weights grow in its place, for weights are whole numbers; with its renewal all is as before."""
    instances = [mk(1, "eureka", weight=1, taper=50), mk(2, "eureka", weight=2)]
    other = mk_snapshot(mk_service("reviews", [mk(3, "consul", weight=3)]), origin="consul")

    def weights(*tapered: Instance) -> dict[str, int]:
        eureka = mk_snapshot(mk_service("reviews", tapered), origin="eureka")
        return {i.id: i.weight for i in merge([eureka, other]).catalog.services[REVIEWS].instances}

    assert weights(*instances) == {"i1": 50, "i2": 200, "i3": 300}
    assert weights(mk(1, "eureka"), instances[1]) == {"i1": 1, "i2": 2, "i3": 3}
    alone = merge([mk_snapshot(mk_service("reviews", instances), origin="eureka")]).catalog.services[REVIEWS]
    assert [(i.weight, i.taper) for i in alone.instances] == [(50, 100), (200, 100)]
