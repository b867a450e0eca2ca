"""Instances with several named ports, as later releases of Consul register them. None of these could be run here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.registry.consul.answers import parse_listing
from isthmus.registry.consul.parse import Parsed, Rules, parse_service
from isthmus.registry.model import Origin, Protocol


def mk_entry(id_: str, *ports: tuple[str, int], default: str = "", **service: Any) -> dict[str, Any]:
    named = [{"Name": name, "Port": number, "Default": name == default} for name, number in ports]
    entry = {"ID": id_, "Service": "web", "Address": "10.0.0.1"} | ({"Ports": named} if ports else {})
    return {"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": entry | service}


def parse(*entries: dict[str, Any]) -> Parsed:
    return parse_service(Origin("dc1", "consul"), "web", parse_listing(json.dumps(entries).encode()), Rules())


def shown(parsed: Parsed) -> tuple[dict[str, tuple[int, Protocol]], list[dict[str, int]]]:
    """The logical ports by name, and the ports of each instance."""
    assert parsed.service is not None, parsed.quarantined
    ports = {p.name: (p.number, p.protocol) for p in parsed.service.ports}
    return ports, [dict(i.ports) for i in parsed.service.instances]


def test_each_named_port_is_a_logical_port() -> None:
    parsed = parse(mk_entry("a", ("grpc", 9090), ("http", 8080), ("admin", 9000), default="http"))
    assert shown(parsed) == (
        {"http": (8080, Protocol.HTTP), "admin": (9000, Protocol.HTTP), "grpc": (9090, Protocol.GRPC)},
        [{"http": 8080, "admin": 9000, "grpc": 9090}],
    )
    assert parsed.quarantined == ()


def test_what_meta_says_is_about_the_default_port() -> None:
    meta = {"port": "80", "protocol": "http2"}
    ports, instances = shown(parse(mk_entry("a", ("api", 23456), ("metrics", 9000), default="api", Meta=meta)))
    assert ports == {"api": (80, Protocol.HTTP2), "metrics": (9000, Protocol.HTTP)}
    assert instances == [{"api": 23456, "metrics": 9000}]


def test_without_a_default_the_first_port_is_it() -> None:
    ports, _ = shown(parse(mk_entry("a", ("api", 23456), ("metrics", 9000))))
    assert ports["api"] == (80, Protocol.HTTP)


def test_a_further_port_without_a_common_number_is_left_out_and_named() -> None:
    parsed = parse(mk_entry("a", ("http", 80), ("admin", 9000)), mk_entry("b", ("http", 80), ("admin", 9001)))
    assert shown(parsed) == ({"http": (80, Protocol.HTTP)}, [{"http": 80}, {"http": 80}])
    (remark,) = parsed.quarantined
    assert "port admin" in remark.where
    assert "share no number" in remark.reason


def test_two_ports_cannot_have_one_logical_number() -> None:
    parsed = parse(mk_entry("a", ("http", 23456), ("admin", 80)))
    assert list(shown(parsed)[0]) == ["http"]
    assert "also that of port http" in parsed.quarantined[0].reason


def test_instances_with_one_port_and_with_several_are_one_service() -> None:
    """While a service is being moved from the one way to the other."""
    ports, instances = shown(parse(mk_entry("a", Port=8080), mk_entry("b", ("http", 8080), ("grpc", 9090))))
    assert sorted(ports) == ["grpc", "http"]
    assert instances == [{"http": 8080}, {"http": 8080, "grpc": 9090}]


def test_an_instance_does_not_serve_a_port_that_it_does_not_have() -> None:
    _, instances = shown(
        parse(mk_entry("a", ("http", 8080)), mk_entry("b", ("grpc", 9090), ("http", 8080), default="grpc"))
    )
    assert instances == [{"http": 8080}, {"http": 8080, "grpc": 9090}]


@pytest.mark.parametrize(
    "ports", [[("http", 0)], [("http", 80), ("http", 81)], [("", 80)], [("http", 80), ("admin", 70000)], [("a/b", 80)]]
)
def test_ports_that_cannot_be_told_apart_or_called_are_quarantined(ports: list[tuple[str, int]]) -> None:
    parsed = parse(mk_entry("bad", *ports), mk_entry("good", Port=80))
    assert parsed.service is not None
    assert [i.id for i in parsed.service.instances] == ["n1/good"]
    assert "instance bad" in parsed.quarantined[0].where


@pytest.mark.parametrize("said", [None, []])
def test_no_list_of_ports_is_one_port(said: object) -> None:
    assert shown(parse(mk_entry("a", Port=8080, Ports=said))) == ({"http": (8080, Protocol.HTTP)}, [{"http": 8080}])
