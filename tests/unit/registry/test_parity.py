from __future__ import annotations

import msgspec

from isthmus.registry.model import Health, Protocol
from isthmus.registry.parity import Difference, parity
from tests.world import mk_instance, mk_service, mk_snapshot

A, B, C = (mk_instance(n) for n in (1, 2, 3))


def test_what_each_alone_knows() -> None:
    eureka = mk_snapshot(mk_service("reviews", [A, B]), mk_service("old", [C]), origin="eureka")
    consul = mk_snapshot(mk_service("reviews", [B, C]), mk_service("new"), origin="consul")

    found = parity(eureka, consul)

    assert (found.first, found.second, found.services, found.instances) == ("eureka", "consul", (2, 2), (3, 2))
    assert found.same == 0
    assert found.differences == (
        Difference("new.default", "service", "", "listed without instances"),
        Difference("old.default", "10.0.0.3:8080", "healthy", ""),
        Difference("reviews.default", "10.0.0.1:8080", "healthy", ""),
        Difference("reviews.default", "10.0.0.3:8080", "", "healthy"),
    )


def test_the_same_place_under_another_id_and_weight_is_the_same_instance() -> None:
    renamed = mk_instance(1, origin="eureka", weight=7)

    assert parity(mk_snapshot(mk_service("reviews", [A])), mk_snapshot(mk_service("reviews", [renamed]))).same == 1


def test_disagreement_about_health_and_ports_is_told() -> None:
    sick = mk_instance(1, health=Health.UNHEALTHY)
    first, second = mk_service("reviews", [A], port=80), mk_service("reviews", [sick], port=81, protocol=Protocol.HTTP)

    assert parity(mk_snapshot(first), mk_snapshot(second)).differences == (
        Difference("reviews.default", "10.0.0.1:8080", "healthy", "unhealthy"),
        Difference("reviews.default", "ports", "80/http", "81/http"),
    )


def test_two_words_for_serving_are_no_difference() -> None:
    """And a weight of 0 is one: no requests go there."""
    unknown, idle = mk_instance(1, health=Health.UNKNOWN), mk_instance(1, weight=0)

    assert parity(mk_snapshot(mk_service("a", [A])), mk_snapshot(mk_service("a", [unknown]))).same == 1
    (difference,) = parity(mk_snapshot(mk_service("a", [A])), mk_snapshot(mk_service("a", [idle]))).differences
    assert (difference.first, difference.second) == ("healthy", "healthy, weight 0")


def test_places_are_named_as_they_are_typed() -> None:
    six = msgspec.structs.replace(A, address="2001:db8::1")
    socket = msgspec.structs.replace(A, address="unix:///run/a.sock", ports={"http": 0})

    found = parity(mk_snapshot(mk_service("a", [six, socket])), mk_snapshot(mk_service("a")))

    assert [d.what for d in found.differences] == ["[2001:db8::1]:8080", "unix:///run/a.sock"]
