"""Reading Consul's JSON: what is odd is tolerated, what is broken is named, nothing is fatal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.consul.answers import parse_listing
from isthmus.registry.consul.lists import (
    Checks,
    Peering,
    changed_checks,
    parse_checks,
    parse_names,
    parse_nodes,
    parse_peering,
    parse_self,
)
from isthmus.registry.consul.parse import Parsed, Rules, parse_service
from isthmus.registry.model import Origin

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded.json").read_bytes())
"""What Consul 1.21.0 answered about: maintenance of a node and a service, a sidecar, a gateway, a native instance, a socket, a
host name, IPv6, addresses for the WAN, another datacenter, a peer; at once and out of a streamed view."""

ENTRIES = [entry for path, said in RECORDED.items() if path.startswith("/v1/health/service/") for entry in said]
ENTRY = ENTRIES[0]

PARSERS: dict[str, Callable[[bytes], object]] = {
    "/v1/catalog/services": parse_names,
    "/v1/health/state/any": parse_checks,
    "/v1/catalog/nodes": parse_nodes,
    "/v1/peering/east": parse_peering,
    "/v1/agent/self": parse_self,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value, itself included."""
    inside: list[tuple[Any, ...]] = [at]
    if isinstance(value, dict):
        inside += [p for k, v in value.items() for p in paths(v, (*at, k))]
    elif isinstance(value, list):
        inside += [p for i, v in enumerate(value) for p in paths(v, (*at, i))]
    return inside


def with_replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """A copy of a JSON value with another value at one path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = with_replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def mutated(draw: st.DrawFn, seeds: list[Any]) -> Any:
    """A recorded value in which up to three values are others."""
    value = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        value = with_replaced(value, draw(st.sampled_from(paths(value))), draw(JSON))
    return value


@pytest.mark.parametrize("remote", [False, True])
@given(entry=mutated(ENTRIES))
def test_no_mutation_of_an_entry_spoils_its_neighbour(entry: Any, remote: bool) -> None:
    """Whatever an entry looks like, it is read or quarantined by name, and the good one beside it is a service."""
    good = {"Node": {"Node": "good", "Address": "10.0.0.9"}, "Service": {"ID": "good", "Service": "web", "Port": 1}}
    listing = parse_listing(json.dumps([entry, good]).encode())
    parsed = parse_service(Origin("dc1", "consul"), "web", listing, Rules(remote=remote))
    assert parsed.service is not None
    assert "good/good" in [i.id for i in parsed.service.instances]
    assert len({i.id for i in parsed.service.instances}) == len(parsed.service.instances)
    assert all(q.where and q.reason for q in parsed.quarantined)
    assert all(1 <= i.weight <= 128 for i in parsed.service.instances)
    assert all(1 <= p.number <= 65535 for p in parsed.service.ports)


@given(st.sampled_from(sorted(PARSERS)).flatmap(lambda path: st.tuples(st.just(path), mutated([RECORDED[path]]))))
def test_no_mutation_of_a_list_is_more_than_one_kind_of_error(told: tuple[str, Any]) -> None:
    """What is listed about everything is taken or refused as a whole."""
    path, body = told
    with contextlib.suppress(msgspec.DecodeError):
        PARSERS[path](json.dumps(body).encode())


def recorded(path: str) -> Parsed:
    """What becomes of the recorded answer about one service."""
    name = path.partition("?")[0]
    listing = parse_listing(json.dumps(RECORDED[f"/v1/health/service/{path}"]).encode())
    return parse_service(Origin("dc1", "consul"), name, listing, Rules(remote="?" in path))


def test_what_consul_really_answers_is_understood() -> None:
    web = recorded("web").service
    assert web is not None
    shown = {i.id: (i.address, dict(i.ports), i.health.value, i.weight, i.tls_mode) for i in web.instances}
    assert shown == {
        "agent-1/web-1": ("10.0.0.1", {"http2": 8080}, "draining", 2, ""),
        "agent-1/web-2": ("web.example.com", {"http2": 8080}, "draining", 1, "connect"),
        "n1/web-3": ("unix:///run/web.sock", {"http2": 0}, "healthy", 1, ""),
        "n2/web-4": ("2001:db8::7", {"http2": 8080}, "healthy", 1, ""),
    }
    assert [i.locality.zone for i in web.instances] == ["", "", "", "eu-1"]
    assert recorded("web").quarantined == ()
    exported = recorded("exported?peer=east").service
    assert exported is not None
    assert [(i.address, dict(i.ports), i.health.value) for i in exported.instances] == [
        ("203.0.113.1", {"http": 443}, "healthy")
    ]
    assert recorded("exported?dc=dc2").service is not None
    (sidecar,) = recorded("web-sidecar-proxy").sidecars
    assert (sidecar.destination, sidecar.destination_id, sidecar.at) == ("web", "web-1", "10.0.0.1:21000")
    assert recorded("gw") == Parsed(None)


def test_what_is_streamed_is_understood_alike() -> None:
    """So that a service does not change for being read the other way."""
    at_once, streamed = (
        parse_service(Origin("dc1", "consul"), "web", parse_listing(json.dumps(RECORDED[path]).encode()), Rules())
        for path in ("/v1/health/service/web", "/v1/health/service/web, streamed")
    )
    assert at_once == streamed


def test_what_consul_lists_is_understood() -> None:
    read = {path: PARSERS[path](json.dumps(RECORDED[path]).encode()) for path in PARSERS}
    assert read["/v1/agent/self"] == "dc1"
    assert read["/v1/peering/east"] == Peering("ACTIVE", {"exported": frozenset()})
    assert set(parse_nodes(json.dumps(RECORDED["/v1/catalog/nodes"]).encode())) == {"agent-1", "n1", "n2"}
    assert set(parse_names(json.dumps(RECORDED["/v1/catalog/services"]).encode())) == {"web", "web-sidecar-proxy", "gw"}


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_an_answer_that_is_something_else_is_one_kind_of_error(body: bytes) -> None:
    """Half a body, a proxy's HTML page, JSON of another shape: DecodeError, and never another exception."""
    for parse in (parse_names, parse_checks, parse_listing, parse_nodes, parse_peering, parse_self):
        with contextlib.suppress(msgspec.DecodeError):
            parse(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"web": [', b"[1]", b'"x"', b'["\xff"]'])
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    for parse in (parse_names, parse_checks, parse_nodes, parse_peering, parse_self):
        with pytest.raises(msgspec.DecodeError):
            parse(body)


def test_null_is_an_empty_list() -> None:
    assert parse_listing(b"null").entries == ()
    assert parse_checks(b"null") == Checks({}, {})
    assert parse_names(b'{"web": null, "api": ["v1", "v1"]}') == {"web": frozenset(), "api": frozenset({"v1"})}


def test_consul_itself_is_not_listed() -> None:
    assert parse_names(b'{"consul": [], "web": []}') == {"web": frozenset()}


def test_text_that_is_no_utf8_spoils_one_entry_only() -> None:
    good = json.dumps(ENTRY).encode()
    listing = parse_listing(b"[" + good + b"," + good.replace(b"web-1", b"\xff\xfe") + b"]")
    assert [e.service.id for e in listing.entries] == ["web-1"]
    assert len(listing.unreadable) == 1


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(msgspec.DecodeError):
        parse_listing(b'[{"Node":' + b"[" * 100_000)


def mk_check(check_id: str, index: int, *, service: str = "web", node: str = "n1") -> dict[str, Any]:
    mark = {"Node": node, "CheckID": check_id, "ServiceID": service and f"{service}-1", "ServiceName": service}
    return mark | {"Status": "passing", "Output": "200 OK", "ModifyIndex": index}


@pytest.mark.parametrize(
    ("before", "after", "services", "nodes"),
    [
        ([], [mk_check("a", 5)], {"web"}, set()),
        ([mk_check("a", 5)], [], {"web"}, set()),
        ([mk_check("a", 5)], [mk_check("a", 9)], {"web"}, set()),
        ([mk_check("a", 5)], [mk_check("a", 5)], set(), set()),
        ([mk_check("a", 5), mk_check("b", 6, service="api")], [mk_check("b", 6, service="api")], {"web"}, set()),
        ([mk_check("a", 5)], [mk_check("b", 5)], {"web"}, set()),
        ([mk_check("a", 5), mk_check("b", 6)], [mk_check("b", 6), mk_check("a", 5)], set(), set()),
        ([mk_check("a", 5)], [mk_check("a", 5)] * 2, {"web"}, set()),
        ([], [mk_check("serfHealth", 5, service="", node="n2")], set(), {"n2"}),
    ],
)
def test_checks_that_came_went_or_changed_name_their_service_or_node(
    before: list[dict[str, Any]], after: list[dict[str, Any]], services: AbstractSet[str], nodes: AbstractSet[str]
) -> None:
    first, second = (parse_checks(json.dumps(checks).encode()) for checks in (before, after))
    assert changed_checks(first, second) == (services, nodes)
