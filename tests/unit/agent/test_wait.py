"""What something may wait for before it starts."""

from __future__ import annotations

import pytest

from isthmus.agent.answers import AgentStatus, EnvoyStatus, ServiceStatus
from isthmus.agent.wait import parse_conditions, unmet


def mk_status(**more: object) -> AgentStatus:
    values: dict[str, object] = {
        "node": "vm-1",
        "address": "10.0.0.5",
        "ready": True,
        "draining": False,
        "missing": (),
        "problems": (),
        "envoy": EnvoyStatus(1, 0, "1.40.0", 0, ""),
        "services": (),
        "dns": True,
        "upstreams": {
            "outbound|9080||reviews.default.mesh": 2,
            "outbound|9080|v2|reviews.default.mesh": 5,
            "outbound|80||reviews-old.default.mesh": 7,
            "inbound|9080||": 1,
            "xds-grpc": 1,
        },
    }
    return AgentStatus(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("ready,dns", []),
        ("upstream:reviews", []),
        ("upstream:reviews>=2, upstream:reviews.default.mesh>=2", []),
        ("upstream:Reviews.default.mesh.", []),
        ("upstream:reviews>=3", ["upstream:reviews>=3 (2 healthy)"]),
        ("upstream:ratings", ["upstream:ratings>=1 (0 healthy)"]),
    ],
)
def test_conditions_are_met_or_named(text: str, missing: list[str]) -> None:
    """A service is meant by its host name or the front of it, all of its instances and no others'."""
    assert list(unmet(parse_conditions(text), mk_status())) == missing


def test_what_is_missing_is_said_with_its_reason() -> None:
    status = mk_status(ready=False, missing=("Envoy is INITIALIZING",), dns=False)

    assert list(unmet(parse_conditions("ready,dns"), status)) == ["ready (Envoy is INITIALIZING)", "dns"]


def test_what_is_not_registered_is_named() -> None:
    """With what the registry said; a service that is registered, by the agent or by somebody else, is none to wait for."""
    reviews = ServiceStatus("reviews-vm-1", "reviews", True, "", "Consul says 403: Permission denied")
    ratings = ServiceStatus("ratings-vm-1", "ratings", False, "the probe fails")

    missing = list(unmet(parse_conditions("registered"), mk_status(services=(reviews, ratings))))

    assert missing == ["registered (reviews-vm-1: Consul says 403: Permission denied)"]


def test_waiting_for_a_dns_that_is_not_configured_says_so() -> None:
    (missing,) = unmet(parse_conditions("dns"), mk_status(dns=None))

    assert "write `dns: {}` in its configuration" in missing


@pytest.mark.parametrize("text", ["", "ready,", "upstream:", "upstream:a>1", "upstream:a>=x", "redy"])
def test_a_condition_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected ready, registered, dns, upstream:NAME or upstream:NAME>=COUNT"):
        parse_conditions(text)
