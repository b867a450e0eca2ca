"""Reading Consul's JSON: what is odd is tolerated, what is broken is named, nothing is fatal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.consul.answers import Checks, changed_checks, parse_checks, parse_listing, parse_names
from isthmus.registry.consul.parse import Rules, parse_service
from isthmus.registry.model import Origin

ENTRY = {
    "Node": {
        "ID": "c88dab9e",
        "Node": "n1",
        "Address": "10.0.0.1",
        "Datacenter": "dc1",
        "TaggedAddresses": {"lan": "10.0.0.1"},
        "Meta": {"zone": "z1"},
        "Locality": {"Region": "r", "Zone": "z"},
    },
    "Service": {
        "ID": "web-1",
        "Service": "web",
        "Tags": ["v1", "protocol=http"],
        "Address": "10.0.0.2",
        "Meta": {"port": "80", "protocol": "http"},
        "Port": 8080,
        "Weights": {"Passing": 1, "Warning": 1},
        "Proxy": {"Mode": "", "MeshGateway": {}},
        "CreateIndex": 15,
    },
    "Checks": [
        {"Node": "n1", "CheckID": "serfHealth", "Name": "Serf", "Status": "passing", "ServiceID": "", "ModifyIndex": 11}
    ],
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


@given(st.lists(st.tuples(st.sampled_from(paths(ENTRY)), JSON), max_size=3))
def test_no_mutation_of_an_entry_spoils_its_neighbour(mutations: list[tuple[tuple[Any, ...], object]]) -> None:
    """Whatever an entry looks like, it is read or quarantined by name, and the good one beside it is a service."""
    entry: Any = ENTRY
    for path, new in mutations:
        if path in paths(entry):
            entry = with_replaced(entry, path, new)
    good = {"Node": {"Node": "good", "Address": "10.0.0.9"}, "Service": {"ID": "good", "Service": "web", "Port": 1}}
    listing = parse_listing(json.dumps([entry, good]).encode())
    parsed = parse_service(Origin("dc1", "consul"), "web", listing, Rules())
    assert parsed.service is not None
    assert "good/good" in [i.id for i in parsed.service.instances]
    assert len({i.id for i in parsed.service.instances}) == len(parsed.service.instances)
    assert all(q.where and q.reason for q in parsed.quarantined)
    assert all(1 <= i.weight <= 128 for i in parsed.service.instances)
    assert all(1 <= p.number <= 65535 for p in parsed.service.ports)


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_an_answer_that_is_something_else_is_one_kind_of_error(body: bytes) -> None:
    """Half a body, a proxy's HTML page, JSON of another shape: DecodeError, and never another exception."""
    for parse in (parse_names, parse_checks, parse_listing):
        with contextlib.suppress(msgspec.DecodeError):
            parse(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"web": [', b"[1]", b'"x"', b'["\xff"]'])
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    for parse in (parse_names, parse_checks):
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
