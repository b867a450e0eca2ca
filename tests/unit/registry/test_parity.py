from __future__ import annotations

from isthmus.registry.model import Health, Protocol
from isthmus.registry.parity import Difference, parity
from tests.world import mk_instance, mk_service, mk_snapshot

A, B, C = (mk_instance(n) for n in (1, 2, 3))


def test_what_each_alone_knows() -> None:
    eureka = mk_snapshot(mk_service("reviews", [A, B]), mk_service("old", [C]), origin="eureka")
    consul = mk_snapshot(mk_service("reviews", [B, C]), mk_service("new"), origin="consul")

    found = parity(eureka, consul)

    assert (found.first, found.second, found.services, found.instances) == ("eureka", "consul", (2, 2), (3, 2))
    assert found.differences == (
        Difference("new.default"),
        Difference("old.default", only_first=("10.0.0.3:8080",)),
        Difference("reviews.default", only_first=("10.0.0.1:8080",), only_second=("10.0.0.3:8080",)),
    )


def test_the_same_place_under_another_id_and_weight_is_the_same_instance() -> None:
    renamed = mk_instance(1, origin="eureka", weight=7)

    assert parity(mk_snapshot(mk_service("reviews", [A])), mk_snapshot(mk_service("reviews", [renamed]))).same == 1


def test_disagreement_about_health_and_ports_is_told() -> None:
    sick = mk_instance(1, health=Health.UNHEALTHY)
    first, second = mk_service("reviews", [A], port=80), mk_service("reviews", [sick], port=81, protocol=Protocol.HTTP)

    (difference,) = parity(mk_snapshot(first), mk_snapshot(second)).differences

    assert difference.disagree == ("10.0.0.1:8080 healthy / unhealthy",)
    assert difference.ports == "80/http / 81/http"
