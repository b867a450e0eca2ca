"""What each registry is told of an instance, in its own words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.agent.duration import Duration
from isthmus.agent.registration import BridgeRegistration, ConsulRegistration, EurekaRegistration, Registered
from isthmus.agent.registration.bridge import to_workload
from isthmus.agent.registration.claim import Claim
from isthmus.agent.registration.consul import to_registration
from isthmus.agent.registration.etcd import key_of, to_value
from isthmus.agent.registration.eureka import to_instance
from isthmus.registry.conventions import DRAINED
from isthmus.registry.model import Health, Locality, Protocol


def mk_claim(health: Health = Health.HEALTHY, **more: Any) -> Claim:
    said: dict[str, Any] = {
        "id": "reviews-vm-1",
        "service": "reviews",
        "namespace": "default",
        "address": "10.0.0.5",
        "ports": {"http": 19080, "https": 19443},
        "protocols": {"https": Protocol.HTTPS},
        "numbers": {"http": 9080, "https": 443},
    }
    return Claim(Registered(**said | more), 7, health)


def test_consul_deregisters_what_is_critical_for_as_long_as_configured() -> None:
    config = ConsulRegistration(ttl=Duration(45), deregister_critical_service_after=Duration(7200))
    check = to_registration(mk_claim(), config, new=True)["Check"]
    assert (check["TTL"], check["DeregisterCriticalServiceAfter"]) == ("45s", "2h")
    never = ConsulRegistration(deregister_critical_service_after=Duration(0))
    assert "DeregisterCriticalServiceAfter" not in to_registration(mk_claim(), never, new=True)["Check"]


@pytest.mark.parametrize(
    ("health", "status"), [(Health.HEALTHY, "passing"), (Health.UNHEALTHY, "critical"), (Health.UNKNOWN, "critical")]
)
def test_consul_hears_first_what_is_known_first(health: Health, status: str) -> None:
    assert to_registration(mk_claim(health), ConsulRegistration(), new=True)["Check"]["Status"] == status


def test_consul_takes_so_many_labels_as_metadata_and_the_others_as_tags() -> None:
    labels = {f"label-{n:02}": "x" for n in range(80)}
    said = to_registration(mk_claim(labels=labels), ConsulRegistration(), new=True)
    assert len(said["Meta"]) == 64
    assert {**said["Meta"], **dict(tag.split("=") for tag in said["Tags"])}.items() >= labels.items()


def test_a_label_does_not_take_the_place_of_what_the_agent_says() -> None:
    claim = mk_claim(labels={"isthmus-epoch": "999", "port": "1"})
    said = to_registration(claim, ConsulRegistration(), new=True)
    assert (said["Meta"]["isthmus-epoch"], said["Meta"]["port"]) == ("7", "9080")
    assert to_instance(claim, "UP", 1, EurekaRegistration(), drained=False)["instance"]["metadata"]["port"] == "9080"
    assert msgspec.json.decode(to_value(claim, serves=True))["metadata"]["isthmus-epoch"] == "7"


def test_consul_has_no_weight_of_nothing_but_the_bridge_is_told() -> None:
    said = to_registration(mk_claim(weight=0), ConsulRegistration(), new=True)
    assert (said["Weights"]["Passing"], said["Meta"]["isthmus-weight"]) == (1, "0")


def test_eureka_has_a_port_for_https_of_its_own() -> None:
    said = to_instance(mk_claim(), "UP", 1, EurekaRegistration(), drained=True)["instance"]
    assert said["port"] == {"$": 19080, "@enabled": "true"}
    assert said["securePort"] == {"$": 19443, "@enabled": "true"}
    assert said["metadata"][DRAINED] == "7"


def test_etcd_has_one_key_with_an_endpoint_for_each_protocol() -> None:
    claim = mk_claim(address="2001:db8::5", labels={"version": "v1"}, locality=Locality("eu", "eu-1"), weight=3)
    said = msgspec.json.decode(to_value(claim, serves=True))
    assert said["endpoints"] == ["http://[2001:db8::5]:19080", "https://[2001:db8::5]:19443"]
    assert said["version"] == "v1"
    assert said["metadata"].items() >= {"weight": "3", "region": "eu", "zone": "eu-1"}.items()
    assert msgspec.json.decode(to_value(claim, serves=False))["metadata"]["weight"] == "0"
    assert key_of(claim.service, "/microservices") == key_of(claim.service, "/microservices/")
    assert key_of(claim.service, "/microservices/") == b"/microservices/reviews/reviews-vm-1"


def test_the_bridge_is_told_all_of_it() -> None:
    claim = mk_claim(labels={"version": "v1"}, locality=Locality("eu", "eu-1", "rack7"), weight=3)
    assert to_workload(claim, Health.DRAINING, BridgeRegistration(ttl=Duration(45))) == {
        "service": "reviews",
        "namespace": "default",
        "address": "10.0.0.5",
        "ports": {"http": 19080, "https": 19443},
        "numbers": {"http": 9080, "https": 443},
        "protocols": {"http": "http", "https": "https"},
        "health": "draining",
        "weight": 3,
        "labels": {"version": "v1"},
        "locality": {"region": "eu", "zone": "eu-1", "sub_zone": "rack7"},
        "epoch": 7,
        "ttl": 45,
    }
