"""Keys into instances, and instances into services with logical ports."""

from __future__ import annotations

import json

import pytest

from isthmus.registry.etcd.layouts import LAYOUTS
from isthmus.registry.etcd.parse import Claim, Parsed, Rules, parse_key, to_service
from isthmus.registry.model import Locality, Port, Protocol, ServiceKey

RULES = Rules("keys", "/p/", "grpc")


def parse(layout: str, path: str, value: object, rules: Rules = RULES, *, permanent: bool = False) -> Parsed:
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_key(LAYOUTS[layout], f"/p/{path}".encode(), text.encode(), rules, permanent=permanent)


def plain(*addresses: str, rules: Rules = RULES) -> list[Claim]:
    return [c for n, a in enumerate(addresses) for c in parse("go-zero", f"web/{n}", a, rules).claims]


def test_an_instance() -> None:
    value = {"Op": 0, "Addr": "10.0.0.1:8080", "Metadata": {"region": "eu", "zone": "eu-1", "protocol": "GRPC"}}
    (claim,) = parse("grpc", "web/1", value, permanent=True).claims
    assert claim.key == ServiceKey("default", "web")
    instance = claim.instance
    assert (instance.id, instance.origin, instance.address, instance.ports) == (
        "/p/web/1",
        "keys",
        "10.0.0.1",
        {"grpc": 8080},
    )
    assert instance.locality == Locality("eu", "eu-1")
    assert instance.provenance == {"layout": "grpc", "lease": "none: the key is permanent"}


def test_endpoints_on_several_hosts_are_several_instances() -> None:
    endpoints = ["http://10.0.0.1:80", "grpc://10.0.0.2:90", "grpc://10.0.0.1:91", "http://10.0.0.1:81"]
    parsed = parse("go-kratos", "web/1", {"id": "a", "name": "web", "endpoints": endpoints})
    assert {c.instance.id: dict(c.instance.ports) for c in parsed.claims} == {
        "/p/web/1": {"grpc": 91, "http": 80},
        "/p/web/1@10.0.0.2": {"grpc": 90},
    }
    assert len(parsed.reasons) == 1
    assert "second http port" in parsed.reasons[0]


def test_an_unusable_node_does_not_spoil_the_others() -> None:
    nodes = [
        {"id": "a", "address": "10.0.0.1:80"},
        {"id": "b", "address": "0.0.0.0:80"},
        {"id": "a", "address": "10.0.0.3:80"},
    ]
    parsed = parse("go-micro", "web/1", {"name": "web", "nodes": nodes})
    assert [c.instance.id for c in parsed.claims] == ["/p/web/1#a"]
    assert [r.split()[-1] for r in parsed.reasons] == ["elsewhere", "twice"]


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "10.0.0.256", "fe80::1%eth0", "a b", "-x", "x" * 300])
def test_addresses_that_cannot_be_called(host: str) -> None:
    parsed = parse("skydns", "web/1", {"host": host, "port": 80})
    assert parsed.claims == ()
    assert len(parsed.reasons) == 1


def test_an_unknown_protocol_is_said_and_taken_for_tcp() -> None:
    parsed = parse("grpc", "web/1", {"Addr": "10.0.0.1:80", "Metadata": {"protocol": "gopher"}})
    assert parsed.claims[0].instance.ports == {"tcp": 80}
    assert "gopher" in parsed.reasons[0]


def test_weights_are_bounded() -> None:
    (claim,) = parse("skydns", "web/1", {"host": "10.0.0.1", "weight": 10**9}).claims
    assert claim.instance.weight == 100_000


def test_the_shared_port_is_the_logical_one() -> None:
    service, reasons = to_service(plain("10.0.0.1:8080", "10.0.0.2:8080"))
    assert service.ports == (Port("http", 8080, Protocol.HTTP),)
    assert reasons == ()


@pytest.mark.parametrize("addresses", [("10.0.0.1:8080", "10.0.0.2:8081"), ("10.0.0.1:40000",)])
def test_random_ports_fold_into_the_default(addresses: tuple[str, ...]) -> None:
    service, _ = to_service(plain(*addresses))
    assert service.ports == (Port("http", 80, Protocol.HTTP),)
    assert len(service.instances) == len(addresses)


def test_a_number_is_had_once() -> None:
    """The default protocol's port comes first; the other is left out, by name."""
    endpoints = ["grpc://10.0.0.1:40001", "http://10.0.0.1:40000"]
    claims = parse("go-kratos", "web/1", {"id": "a", "name": "web", "endpoints": endpoints}).claims
    service, reasons = to_service(claims)
    assert service.ports == (Port("http", 80, Protocol.HTTP),)
    assert service.instances[0].ports == {"http": 40000}
    assert reasons == ("port 80 is both http and grpc; grpc is left out",)


def test_a_port_that_is_not_said_is_the_default() -> None:
    (claim,) = parse("skydns", "web/1", {"host": "10.0.0.1"}, Rules("keys", "/p/", "skydns", default_port=5432)).claims
    assert claim.instance.ports == {"http": 5432}


def test_a_socket_has_no_port() -> None:
    (claim,) = parse("kitex", "web/1", {"network": "unix", "address": "/run/x.sock"}).claims
    assert (claim.instance.address, claim.instance.ports) == ("unix:///run/x.sock", {"http": 0})
    service, _ = to_service([claim])
    assert service.ports[0].number == 80


def test_a_key_that_is_not_text_is_said() -> None:
    parsed = parse_key(LAYOUTS["go-zero"], b"/p/\xff/1", b"10.0.0.1:80", RULES, permanent=False)
    assert parsed.reasons == ("the key is not text",)
