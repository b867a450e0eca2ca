"""Layouts that operators describe themselves."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.etcd.layouts import Endpoint, Found, UnreadableError
from isthmus.registry.etcd.template import Template, compile_template


def read(template: Template, path: str, value: object) -> tuple[Found, ...]:
    text = value if isinstance(value, str) else json.dumps(value)
    return compile_template(template)(path, "/p/", text.encode())


def test_paths_into_the_value() -> None:
    template = Template(
        key="{env}/{service}/{id...}",
        address="$.net.hosts[0]",
        port='net["the port"]',
        protocol="proto",
        weight="w",
        labels="tags",
    )
    value = {
        "net": {"hosts": ["10.0.0.1"], "the port": 8080},
        "proto": "GRPC",
        "w": 5,
        "tags": {"version": "v2", "list": []},
    }
    assert read(template, "prod/web/a/b", value) == (
        Found("web", (Endpoint("10.0.0.1", 8080, "grpc"),), labels={"env": "prod", "version": "v2"}, weight=5),
    )


def test_everything_from_the_key() -> None:
    template = Template(key="{service}/{address}:{port}/{_}", value="json")
    assert read(template, "web/10.0.0.1:80/whatever", {}) == (Found("web", (Endpoint("10.0.0.1", 80),)),)


def test_a_value_that_is_text() -> None:
    assert read(Template(value="text"), "web/1", "10.0.0.1:80\n") == (Found("web", (Endpoint("10.0.0.1", 80),)),)


def test_a_list_of_instances() -> None:
    template = Template(key="{service}", each="$.nodes", id="name", address="addr")
    value = {"nodes": [{"name": "a", "addr": "10.0.0.1:80"}, {"name": "b", "addr": "[::1]:81"}]}
    assert read(template, "web", value) == (
        Found("web", (Endpoint("10.0.0.1", 80),), name="a"),
        Found("web", (Endpoint("::1", 81),), name="b"),
    )


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("web", {}, "does not match the pattern"),
        ("web/1", "no json", "not what the layout says"),
        ("web/1", {}, "address: nothing is there"),
        ("web/1", {"addr": ["x"]}, "address: expected text or a number, not list"),
        ("web/1", {"addr": True}, "address: expected text or a number, not bool"),
        ("web/1", {"addr": "10.0.0.1"}, "expected host:port"),
    ],
)
def test_what_does_not_fit_has_a_reason(path: str, value: object, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read(Template(address="addr"), path, value)


@pytest.mark.parametrize("port", [0, 65536, "http", -1, 80.5])
def test_ports_that_are_none(port: object) -> None:
    with pytest.raises(UnreadableError, match="expected 1 to 65535"):
        read(Template(address="addr", port="port"), "web/1", {"addr": "10.0.0.1", "port": port})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": "{service}{id}", "address": "a"}, "between"),
        ({"key": "{service}/{service}", "address": "a"}, "twice"),
        ({"key": "{Service}/{id}", "address": "a"}, "lower case"),
        ({"key": "{service", "address": "a"}, "placeholder"),
        ({"key": "{id}", "address": "a"}, "what a service is"),
        ({"key": "{service}/{id}"}, "what an address is"),
        ({"address": "a..b"}, "no path"),
        ({"address": "a[x"}, "no path"),
        ({"value": "text", "port": "p"}, "no JSON"),
    ],
)
def test_a_template_that_cannot_work_is_refused(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(fields, Template)


_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("10.0.0.1:80"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


@given(st.text(max_size=20), _ANY)
def test_no_key_or_value_crashes(path: str, value: Any) -> None:
    template = Template(key="{service}/{id...}", each="a", address="b", port="c[0]", weight="c", labels="c")
    with contextlib.suppress(UnreadableError):
        assert all(f.service and f.endpoints for f in read(template, path, value))


@given(st.text("{}abc/._$[]\"'0", max_size=20), st.text("{}abc/._$[]\"'0", max_size=20))
def test_no_template_crashes(key: str, path: str) -> None:
    """It is refused, or it reads."""
    with contextlib.suppress(ValueError):
        compile_template(Template(key=key, service="s", address=path or "a"))
