"""Each layout: what its own writer puts into etcd is read, and whatever else is there has a reason and harms nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.etcd.layouts import LAYOUTS, Found, UnreadableError
from isthmus.registry.etcd.parse import Rules, parse_key, to_service
from isthmus.registry.model import Service
from tests.unit.registry.etcd.examples import EXAMPLES


@pytest.mark.parametrize(("layout", "prefix", "path", "value", "found"), EXAMPLES)
def test_what_the_writers_write_is_read(layout: str, prefix: str, path: str, value: str, found: Found) -> None:
    assert LAYOUTS[layout](path, prefix, value.encode()) == (found,)


def test_all_layouts_have_an_example() -> None:
    assert {layout for layout, *_ in EXAMPLES} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("layout", "path", "value"),
    [
        ("grpc", "web/1", '{"Op":1,"Addr":"10.0.0.1:80"}'),
        ("skydns", "web/1", '{"text":"v=spf1"}'),
        ("registrator", "dns/h:c:53:udp", "10.0.0.1:53"),
        ("go-micro", "web/1", '{"name":"web","nodes":[]}'),
    ],
)
def test_what_announces_nothing_on_purpose_is_no_fault(layout: str, path: str, value: str) -> None:
    assert LAYOUTS[layout](path, "/x/", value.encode()) == ()


@pytest.mark.parametrize(
    ("layout", "path", "value", "reason"),
    [
        ("grpc", "web/1", "10.0.0.1:80", "not what the layout says"),
        ("grpc", "web/1", '{"Addr":"10.0.0.1"}', "expected host:port"),
        ("grpc", "web/1", '{"Addr":"::1:80"}', "expected host:port"),
        ("grpc", "web/1", '{"Addr":"10.0.0.1:65536"}', "expected 1 to 65535"),
        ("grpc", "web/1", '{"Op":7,"Addr":"10.0.0.1:80"}', "Op 7"),
        ("go-kratos", "web/1", '{"id":"a","name":"web","endpoints":[]}', "endpoints is empty"),
        ("go-kratos", "web/1", '{"id":"a","name":"web","endpoints":["10.0.0.1:80"]}', "expected scheme://host:port"),
        ("go-kratos", "web/1", '{"id":"a","name":"web","endpoints":["http://[::1:80"]}', "endpoint"),
        ("go-micro", "web/1", '{"name":"web","nodes":{}}', "not what the layout says"),
        ("kitex", "web/1", '{"network":"udp","address":"10.0.0.1:80"}', "expected tcp or unix"),
        ("skydns", "web/1", '{"port":80}', "host is empty"),
        ("skydns", "web/1", '{"host":"10.0.0.1","port":-1}', "expected 1 to 65535"),
        ("go-zero", "web/1", "", "expected host:port"),
    ],
)
def test_what_cannot_be_read_has_a_reason(layout: str, path: str, value: str, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        LAYOUTS[layout](path, "/services/", value.encode())


def test_a_key_that_names_no_service_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="names no service"):
        LAYOUTS["go-zero"]("alone", "", b"10.0.0.1:80")


# Fuzzing: whatever stands in etcd.

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["10.0.0.1:80", "grpc://10.0.0.1:9000", "http://[::1]:80?isSecure=true", "0", "::1%eth0", "unix:"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _almost(draw: st.DrawFn) -> tuple[str, str, str, bytes]:
    """An example in which up to three entries have become something else, or are gone."""
    layout, prefix, path, value, _ = draw(st.sampled_from(EXAMPLES))
    try:
        said: Any = json.loads(value)
    except ValueError:
        text = draw(st.text(max_size=4)) + value[draw(st.integers(0, len(value))) :] + draw(st.text(max_size=4))
        return layout, prefix, path, text.encode()
    for _ in range(draw(st.integers(1, 3))):
        at = said
        key = draw(st.sampled_from(sorted(at)))
        if (
            isinstance(at[key], list)
            and at[key]
            and isinstance(at[key][0], dict)
            and at[key][0]
            and draw(st.booleans())
        ):
            at = at[key][0]
            key = draw(st.sampled_from(sorted(at)))
        if draw(st.booleans()):
            at[key] = draw(_JSON)
        elif len(at) > 1:
            del at[key]
    return layout, prefix, path, json.dumps(said).encode()


def _check(layout: str, prefix: str, key: bytes, value: bytes) -> None:
    parsed = parse_key(LAYOUTS[layout], key, value, Rules("keys", prefix, layout), permanent=False)
    assert all(parsed.reasons)
    assert len({c.instance.id for c in parsed.claims}) == len(parsed.claims)
    for name in {c.key for c in parsed.claims}:
        service, _ = to_service([c for c in parsed.claims if c.key == name])
        _check_service(service)


def _check_service(service: Service) -> None:
    assert service.ports
    assert len({p.number for p in service.ports}) == len(service.ports)
    names = {p.name for p in service.ports}
    for instance in service.instances:
        assert instance.ports.keys() <= names
        assert all(0 < n <= 65535 or instance.address.startswith("unix:") for n in instance.ports.values())
        assert instance.weight >= 1
        assert instance.address


@given(_almost())
def test_almost_right_values_never_crash(example: tuple[str, str, str, bytes]) -> None:
    layout, prefix, path, value = example
    _check(layout, prefix, (prefix + path).encode(), value)


@given(st.sampled_from(sorted(LAYOUTS)), st.binary(max_size=40), st.binary(max_size=200) | _JSON.map(json.dumps))
def test_anything_at_all_never_crashes(layout: str, path: bytes, value: bytes | str) -> None:
    _check(layout, "/p/", b"/p/" + path, value.encode() if isinstance(value, str) else value)


def test_a_deep_value_never_crashes() -> None:
    for layout in LAYOUTS:
        _check(layout, "/p/", b"/p/a/b", b'{"Metadata":' + b"[" * 100_000)


def test_what_is_too_long_is_not_even_looked_at() -> None:
    rules = Rules("keys", "/p/", "go-zero")
    parsed = parse_key(LAYOUTS["go-zero"], b"/p/a/b", b"10.0.0.1:80" + b" " * 300_000, rules, permanent=False)
    assert parsed.claims == ()
    assert "at most" in parsed.reasons[0]
