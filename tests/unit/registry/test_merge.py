"""Several registries know the same service (tests/property/test_merge.py has the laws)."""

from __future__ import annotations

import msgspec

from isthmus.registry.merge import merge
from isthmus.registry.model import Catalog, Health, Instance, Protocol, Service
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
