"""What a Consul entry means for callers: health, address, port, labels, place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.registry.consul.answers import parse_listing
from isthmus.registry.consul.parse import Parsed, Rules, cannot_be_asked_for, parse_service
from isthmus.registry.model import Health, Instance, Locality, Origin, Protocol, Service, ServiceKey

ORIGIN = Origin("dc1", "consul")


def mk_entry(
    id_: str = "web-1",
    *,
    node: str = "n1",
    checks: list[dict[str, Any]] | None = None,
    node_fields: dict[str, Any] | None = None,
    **service: Any,
) -> dict[str, Any]:
    """One entry as `/v1/health/service/web` lists it; keyword arguments are fields of Service."""
    return {
        "Node": {"Node": node, "Address": "10.9.9.9", "Datacenter": "dc1", "Meta": None} | (node_fields or {}),
        "Service": {
            "ID": id_,
            "Service": "web",
            "Tags": [],
            "Address": "10.0.0.1",
            "Port": 8080,
            "Meta": None,
            "Weights": {"Passing": 1, "Warning": 1},
        }
        | service,
        "Checks": [{"Node": node, "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""}, *(checks or [])],
    }


def mk_check(status: str, check_id: str = "c1", service_id: str = "web-1") -> dict[str, Any]:
    return {"Node": "n1", "CheckID": check_id, "Name": f"check {check_id}", "Status": status, "ServiceID": service_id}


def parse(*entries: object, rules: Rules | None = None) -> Parsed:
    return parse_service(ORIGIN, "web", parse_listing(json.dumps(entries).encode()), rules or Rules())


def the_service(*entries: object, rules: Rules | None = None) -> Service:
    parsed = parse(*entries, rules=rules)
    assert parsed.service is not None, parsed.quarantined
    return parsed.service


def the_instance(*entries: object) -> Instance:
    (instance,) = the_service(*entries).instances
    return instance


@pytest.mark.parametrize(
    ("checks", "health"),
    [
        ([], Health.HEALTHY),
        ([mk_check("passing")], Health.HEALTHY),
        ([mk_check("warning")], Health.HEALTHY),
        ([mk_check("passing"), mk_check("critical", "c2")], Health.UNHEALTHY),
        ([mk_check("critical", "serfHealth", "")], Health.UNHEALTHY),
        ([mk_check("critical", "_service_maintenance:web-1")], Health.DRAINING),
        ([mk_check("critical", "_node_maintenance", ""), mk_check("critical")], Health.DRAINING),
        ([mk_check("critical", service_id="another-on-this-node")], Health.HEALTHY),
        ([mk_check("no such status")], Health.UNHEALTHY),
    ],
)
def test_health_is_the_worst_of_the_nodes_checks_and_the_services_own(
    checks: list[dict[str, Any]], health: Health
) -> None:
    assert the_instance(mk_entry(checks=checks)).health is health


def test_a_service_with_null_checks_is_healthy() -> None:
    assert the_instance(mk_entry() | {"Checks": None}).health is Health.HEALTHY


@pytest.mark.parametrize(
    ("weights", "status", "weight", "health"),
    [
        ({"Passing": 7, "Warning": 3}, "passing", 7, Health.HEALTHY),
        ({"Passing": 7, "Warning": 3}, "warning", 3, Health.HEALTHY),
        ({"Passing": 7, "Warning": 0}, "warning", 1, Health.UNHEALTHY),
        ({"Passing": 7, "Warning": 0}, "passing", 7, Health.HEALTHY),
        ({"Passing": 65535, "Warning": 1}, "passing", 128, Health.HEALTHY),
        (None, "warning", 1, Health.HEALTHY),
    ],
)
def test_weights_follow_the_status(weights: dict[str, int] | None, status: str, weight: int, health: Health) -> None:
    instance = the_instance(mk_entry(Weights=weights, checks=[mk_check(status)]))
    assert (instance.weight, instance.health) == (weight, health)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"Address": "10.0.0.7"}, "10.0.0.7"),
        ({"Address": ""}, "10.9.9.9"),
        ({"Address": "db.example.com"}, "db.example.com"),
        ({"Address": "2001:DB8::1"}, "2001:db8::1"),
        ({"Address": "", "Port": 0, "SocketPath": "/run/web.sock"}, "unix:///run/web.sock"),
    ],
)
def test_the_address_is_the_services_else_the_nodes(fields: dict[str, Any], address: str) -> None:
    assert the_instance(mk_entry(**fields)).address == address


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"Port": 0}, "port 0"),
        ({"Port": 70000}, "port 70000"),
        ({"Address": "0.0.0.0"}, "0.0.0.0"),
        ({"Address": "10.0.0.300"}, "10.0.0.300"),
        ({"Address": "http://web:80"}, "http://web:80"),
        ({"Address": "", "node_fields": {"Address": ""}}, "neither the service nor its node"),
        ({"SocketPath": "run/web.sock"}, "run/web.sock"),
    ],
)
def test_an_instance_that_cannot_be_called_is_quarantined_and_the_others_stay(
    fields: dict[str, Any], word: str
) -> None:
    parsed = parse(mk_entry("bad", **fields), mk_entry("good"))
    assert parsed.service is not None
    assert [i.id for i in parsed.service.instances] == ["n1/good"]
    (quarantined,) = parsed.quarantined
    assert quarantined.where == "service web, instance bad on node n1"
    assert word in quarantined.reason


@pytest.mark.parametrize(
    "entry", [{"Node": {"Node": "n2"}, "Service": {"ID": "odd", "Service": "web", "Port": "80"}}, 17, None, [], "x"]
)
def test_an_entry_of_the_wrong_shape_is_quarantined_and_the_others_stay(entry: object) -> None:
    parsed = parse(mk_entry(), entry)
    assert parsed.service is not None
    assert len(parsed.service.instances) == 1
    assert len(parsed.quarantined) == 1
    if isinstance(entry, dict):
        assert parsed.quarantined[0].where == "service web, instance odd on node n2"
        assert "$.Service.Port" in parsed.quarantined[0].reason


def test_the_same_service_id_on_two_nodes_is_two_instances() -> None:
    service = the_service(mk_entry(node="n2"), mk_entry(node="n1"))
    assert [i.id for i in service.instances] == ["n1/web-1", "n2/web-1"]


@pytest.mark.parametrize("kind", ["mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway", "new"])
def test_gateways_are_no_services(kind: str) -> None:
    """Nor is it somebody's mistake that they are there."""
    assert parse(mk_entry(Kind=kind)) == Parsed(None)


def test_an_instance_that_speaks_consuls_mutual_tls_itself_says_so() -> None:
    service = the_service(
        mk_entry("a", Connect={"Native": True}), mk_entry("b", Connect={}), mk_entry("c", Connect=None)
    )
    assert [i.tls_mode for i in service.instances] == ["connect", "", ""]


def test_no_entry_is_no_service() -> None:
    assert parse() == Parsed(None)


def test_labels_are_meta_and_tags() -> None:
    """Meta wins over a `k=v` tag; plain tags are one label, sorted, because Consul's order changes between reads."""
    meta = {"version": "v2", "team": "a"}
    labels = the_instance(mk_entry(Tags=["v1", "canary", "version=v1", "zone=b", "=x"], Meta=meta)).labels
    assert labels == {"tags": "=x,canary,v1", "team": "a", "version": "v2", "zone": "b"}


def test_the_order_of_tags_and_entries_changes_nothing() -> None:
    one = parse(mk_entry("a", Tags=["x", "y=1", "y=2"]), mk_entry("b"))
    two = parse(mk_entry("b"), mk_entry("a", Tags=["y=2", "y=1", "x"]))
    assert one == two


@pytest.mark.parametrize(
    ("fields", "locality"),
    [
        ({}, Locality("dc1")),
        ({"node_fields": {"Meta": {"zone": "z1"}}}, Locality("dc1", "z1")),
        ({"node_fields": {"Meta": {"region": "eu", "zone": "z1"}}}, Locality("eu", "z1")),
        ({"node_fields": {"Locality": {"Region": "us", "Zone": "z2"}, "Meta": {"zone": "z1"}}}, Locality("us", "z2")),
        ({"Locality": {"Region": "as"}, "node_fields": {"Locality": {"Region": "us"}}}, Locality("as")),
        ({"Locality": {"Region": "", "Zone": ""}}, Locality("dc1")),
    ],
)
def test_the_nearest_statement_about_the_place_holds(fields: dict[str, Any], locality: Locality) -> None:
    assert the_instance(mk_entry(**fields)).locality == locality


@pytest.mark.parametrize(
    ("ports", "meta", "number"),
    [
        ([8080, 8080], None, 8080),
        ([8080, 8081], None, 80),
        ([23456, 31007], None, 80),
        ([23456], None, 80),  # one instance with a random port today is two tomorrow
        ([8080, 8081], {"port": "9080"}, 9080),
        ([23456], {"port": "9080"}, 9080),
        ([8080], {"port": "http"}, 8080),
    ],
)
def test_random_ports_fold_into_one_logical_port(ports: list[int], meta: dict[str, str] | None, number: int) -> None:
    service = the_service(*(mk_entry(f"web-{i}", Port=p, Meta=meta) for i, p in enumerate(ports)))
    (port,) = service.ports
    assert port.number == number
    assert [i.ports[port.name] for i in service.instances] == ports


@pytest.mark.parametrize(
    ("fields", "protocol"),
    [
        ({}, Protocol.HTTP),
        ({"Meta": {"protocol": "grpc"}}, Protocol.GRPC),
        ({"Tags": ["protocol=TCP"]}, Protocol.TCP),
        ({"Tags": ["protocol=tcp"], "Meta": {"protocol": "http2"}}, Protocol.HTTP2),
        ({"Meta": {"protocol": "thrift"}}, Protocol.TCP),
    ],
)
def test_the_protocol_is_declared_by_meta_or_a_tag(fields: dict[str, Any], protocol: Protocol) -> None:
    (port,) = the_service(mk_entry(**fields)).ports
    assert (port.protocol, port.name) == (protocol, protocol.value)


def test_the_defaults_are_the_configurations() -> None:
    service = the_service(mk_entry(Port=30000), rules=Rules(Protocol.TCP, 7, "team-a"))
    assert service.ports[0].number == 7
    assert service.ports[0].protocol is Protocol.TCP
    assert service.key == ServiceKey("team-a", "web")


@pytest.mark.parametrize(
    ("meta", "word"),
    [({"port": "99999"}, "99999"), ({"port": "²"}, "not a port"), ({"protocol": "thrift"}, "thrift")],
)
def test_what_cannot_be_followed_is_said_and_the_service_stays(meta: dict[str, str], word: str) -> None:
    parsed = parse(mk_entry(Meta=meta))
    assert parsed.service is not None
    assert word in parsed.quarantined[0].reason


def test_instances_that_disagree_about_the_port_are_reported() -> None:
    parsed = parse(mk_entry("a", Meta={"port": "81"}), mk_entry("b", Meta={"port": "82"}))
    assert parsed.service is not None
    assert parsed.service.ports[0].number == 81
    assert "81 is used, not 82" in parsed.quarantined[0].reason


def test_hostnames_are_those_of_consuls_dns() -> None:
    assert the_service(mk_entry()).hostnames == {"web.service.consul", "web.service.dc1.consul"}


def test_what_a_peer_exports_has_the_names_of_its_dns() -> None:
    assert the_service(mk_entry(PeerName="east")).hostnames == {"web.service.east.peer.consul"}


def test_the_entrys_own_namespace_is_the_services() -> None:
    assert the_service(mk_entry(Namespace="team-b")).key == ServiceKey("team-b", "web")


def test_provenance_says_where_the_record_came_from_and_why_it_is_not_healthy() -> None:
    entry = mk_entry(checks=[mk_check("critical")], node_fields={"Partition": "p1", "PeerName": "east"})
    assert the_instance(entry).provenance == {
        "node": "n1",
        "datacenter": "dc1",
        "service_id": "web-1",
        "partition": "p1",
        "peer": "east",
        "failing_checks": "check c1",
    }


@pytest.mark.parametrize("name", ["..", "a/../b", "a//b", "/", ".", ""])
def test_a_name_that_would_ask_for_another_path_is_not_asked_for(name: str) -> None:
    assert cannot_be_asked_for(name)


@pytest.mark.parametrize("name", ["web", "web.v1", "a/b", "web?x", "süß", "..."])
def test_other_odd_names_are_asked_for(name: str) -> None:
    assert not cannot_be_asked_for(name)
