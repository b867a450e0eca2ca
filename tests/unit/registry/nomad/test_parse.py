"""Nomad's registrations into services."""

from __future__ import annotations

import pytest

from isthmus.registry.model import Locality, Origin, Protocol, Quarantined, Service, ServiceKey
from isthmus.registry.nomad.answers import Allocation, DeploymentStatus, Node, Registration, ServiceName
from isthmus.registry.nomad.health import Evidence
from isthmus.registry.nomad.parse import Listed, Parsed, Rules, cannot_be_asked_for, parse_service

ORIGIN = Origin("global", "nomad")
WEB = ServiceName("default", "web")
RULES = Rules()


def registration(id_: str = "web-1", *tags: str, address: str = "10.0.0.1", port: int = 24_000) -> Registration:
    return Registration(id_, "web", alloc=f"alloc-{id_}", datacenter="dc1", tags=tags, address=address, port=port)


def parsed(*registrations: Registration, name: ServiceName = WEB, rules: Rules = RULES) -> Parsed:
    listed = [Listed(r, Evidence(r.service, Allocation(r.alloc), None, None, None)) for r in registrations]
    return parse_service(ORIGIN, name, listed, rules, 0)


def service(*registrations: Registration, name: ServiceName = WEB, rules: Rules = RULES) -> Service:
    made = parsed(*registrations, name=name, rules=rules).service
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("registrations", "number"),
    [
        ([registration("a", port=24_000), registration("b", port=31_000)], 80),
        ([registration("a", port=24_000)], 80),
        ([registration("a", port=8080), registration("b", port=8080)], 8080),
        ([registration("a", port=8080), registration("b", port=8081)], 80),
        ([registration("a", "port=9090", port=24_000), registration("b", port=31_000)], 9090),
        ([registration("a", "port=9090", port=8080)], 9090),
        ([registration("a", port=19_999)], 19_999),
        ([registration("a", port=20_000)], 80),
        ([registration("a", port=40_000)], 80),
    ],
)
def test_random_ports_fold_into_one_logical_port(registrations: list[Registration], number: int) -> None:
    """Callers name one port, instances keep their own."""
    made = service(*registrations)
    assert [p.number for p in made.ports] == [number]
    assert [i.ports for i in made.instances] == [{"http": r.port} for r in registrations]


def test_the_protocol_is_the_tag_s_or_the_default() -> None:
    assert service(registration("a", "protocol=GRPC")).ports[0].protocol is Protocol.GRPC
    assert service(registration("a"), rules=Rules(Protocol.TCP)).ports[0].name == "tcp"


@pytest.mark.parametrize(
    ("tags", "where", "words"),
    [
        (["port=99999"], "tag port", "1 to 65535"),
        (["port="], "tag port", "1 to 65535"),
        (["protocol=thrift"], "tag protocol", "none of http"),
        (["weight=heavy"], "tag weight", "whole number"),
    ],
)
def test_a_tag_that_cannot_be_followed_is_said(tags: list[str], where: str, words: str) -> None:
    """And the instance is carried all the same."""
    made = parsed(registration("a", *tags))
    (remark,) = made.quarantined
    assert remark.where.endswith(where)
    assert "instance a" in remark.where
    assert words in remark.reason
    assert made.service is not None
    assert len(made.service.instances) == 1


def test_instances_that_disagree_are_said() -> None:
    made = parsed(registration("a", "port=1"), registration("b", "port=2"))
    assert made.quarantined == (
        Quarantined("global", "service web in namespace default, tag port", "instances disagree: 1 is used, not 2"),
    )


@pytest.mark.parametrize(("tag", "weight"), [("weight=5", 5), ("weight=0", 1), ("weight=900", 128), ("w=5", 1)])
def test_the_weight_is_the_tag_s_within_bounds(tag: str, weight: int) -> None:
    assert service(registration("a", tag)).instances[0].weight == weight


def test_tags_are_labels() -> None:
    """Whatever their order, and a plain tag beside the pairs."""
    one, other = service(registration("a", "k=v", "b", "a")), service(registration("a", "a", "k=v", "b"))
    assert one == other
    assert one.instances[0].labels == {"k": "v", "tags": "a,b"}


def test_a_canary_is_labelled() -> None:
    alloc = Allocation("alloc-a", deployment=DeploymentStatus(True, canary=True))
    listed = [Listed(registration("a"), Evidence("web", alloc, None, None, None))]
    made = parse_service(ORIGIN, WEB, listed, Rules(), 0).service
    assert made is not None
    assert made.instances[0].labels == {"canary": "true"}


@pytest.mark.parametrize(
    ("meta", "locality"),
    [
        (None, Locality("global", "dc1", "")),
        ({"zone": "z1"}, Locality("global", "z1", "")),
        ({"zone": "z1", "rack": "r7"}, Locality("global", "z1", "r7")),
    ],
)
def test_the_locality_is_region_then_zone_or_datacenter_then_rack(
    meta: dict[str, str] | None, locality: Locality
) -> None:
    evidence = Evidence("web", None, Node("n", meta=meta), None, None)
    made = parse_service(ORIGIN, WEB, [Listed(registration("a"), evidence)], Rules(region="global"), 0).service
    assert made is not None
    assert made.instances[0].locality == locality


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (registration("bad", port=0), "port 0 cannot be called"),
        (registration("bad", port=70_000), "cannot be called"),
        (registration("bad", address=""), "no address"),
        (registration("bad", address="10.0.0"), "neither an IP address nor a host name"),
        (registration("bad", address="0.0.0.0"), "cannot be called"),
        (registration("bad", address="fe80::1%eth0"), "cannot be called"),
        (registration("bad", address="http://x"), "neither"),
    ],
)
def test_an_instance_that_cannot_be_called_is_quarantined_by_name(bad: Registration, words: str) -> None:
    made = parsed(bad, registration("good"))
    assert made.service is not None
    assert [i.id for i in made.service.instances] == ["good"]
    (quarantined,) = made.quarantined
    assert "service web, instance bad in namespace default" in quarantined.where
    assert words in quarantined.reason


@pytest.mark.parametrize(("said", "address"), [("FE80:0::1", "fe80::1"), ("web.example.com", "web.example.com")])
def test_an_address_may_be_ipv6_or_a_host_name(said: str, address: str) -> None:
    assert service(registration("a", address=said)).instances[0].address == address


def test_nothing_that_can_be_called_is_no_service() -> None:
    assert parsed().service is None
    assert parsed(registration("a", port=0)).service is None


@pytest.mark.parametrize(
    ("name", "hostnames"),
    [
        (ServiceName("default", "Web"), {"web.service.nomad", "web.default.service.nomad"}),
        (ServiceName("team-a", "web"), {"web.team-a.service.nomad"}),
        (ServiceName("team-a", "not a host name"), set()),
    ],
)
def test_the_short_host_name_is_the_default_namespace_s(name: ServiceName, hostnames: set[str]) -> None:
    made = service(registration("a"), name=name)
    assert made.hostnames == hostnames
    assert made.key == ServiceKey(name.namespace, name.name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "a//b"])
def test_a_name_that_would_make_another_path_is_not_asked_for(name: str) -> None:
    assert cannot_be_asked_for(ServiceName("default", name))
    assert not cannot_be_asked_for(WEB)
