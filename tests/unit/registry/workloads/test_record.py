"""What a workload may say of itself."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Health, Protocol
from isthmus.registry.workloads.record import (
    MAX_BODY,
    RecordError,
    check_id,
    parse_registration,
    parse_workload,
    to_record,
    to_workload,
)

LEAST: dict[str, Any] = {"service": "reviews", "address": "10.0.0.5", "ports": {"http": 9080}, "epoch": 7}


def body(**changes: Any) -> bytes:
    said = {k: v for k, v in (LEAST | changes).items() if v is not None}
    return msgspec.json.encode(said)


def test_the_least_has_sensible_defaults() -> None:
    said = parse_registration(body())

    assert (said.namespace, said.health_state, said.weight, said.ttl) == ("default", Health.HEALTHY, 1, 30)
    assert (said.number("http"), said.protocol("http")) == (9080, Protocol.HTTP)


def test_a_port_may_have_another_number_for_callers_and_a_protocol_by_its_name_or_of_its_own() -> None:
    ports = {"http": 19080, "grpc-api": 19081, "db": 5432, "web": 80}
    said = parse_registration(body(ports=ports, numbers={"http": 9080}, protocols={"web": "http2"}))

    assert {n: (said.number(n), said.protocol(n)) for n in ports} == {
        "http": (9080, Protocol.HTTP),
        "grpc-api": (19081, Protocol.GRPC),
        "db": (5432, Protocol.TCP),
        "web": (80, Protocol.HTTP2),
    }


def test_an_address_is_kept_in_its_canonical_form() -> None:
    assert parse_registration(body(address="2001:DB8:0::5")).address == "2001:db8::5"
    assert parse_registration(body(address="vm-1.example")).address == "vm-1.example"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"service": None}, "service is missing"),
        ({"epoch": None}, "epoch is missing"),
        ({"servcie": "x"}, "unknown field servcie; accepted are service, address, ports, epoch"),
        ({"service": "rev iews"}, "service 'rev iews': expected a name of letters, digits, dashes and dots"),
        ({"namespace": "../x"}, "namespace '../x': expected a name"),
        ({"address": "10.0.0.300"}, "address '10.0.0.300' is neither an IP address nor a host name"),
        ({"address": "0.0.0.0"}, "address 0.0.0.0 cannot be called from elsewhere"),
        ({"ports": {}}, "ports: expected `object` of length >= 1"),
        ({"ports": {"http": 0}}, "ports[...]: expected `int` >= 1"),
        ({"ports": {"http": 65536}}, "ports[...]: expected `int` <= 65535"),
        ({"ports": {"HTTP": 80}}, "port 'HTTP': expected a name of lower-case letters, digits and dashes"),
        ({"ports": {f"p{n}": n for n in range(1, 34)}}, "ports: expected `object` of length <= 32"),
        ({"numbers": {"grpc": 1}}, "numbers: there is no port 'grpc', only http"),
        ({"ports": {"a": 1, "b": 2}, "numbers": {"a": 2}}, "numbers: two ports have the same number"),
        ({"protocols": {"http": "smtp"}}, "protocols[...]: expected one of http, http2, grpc"),
        ({"health": "sick"}, "health 'sick': expected one of healthy, unhealthy, draining"),
        ({"weight": -1}, "weight: expected `int` >= 0"),
        ({"labels": {"a": 1}}, "labels[...]: expected `str`, got `int`"),
        ({"labels": {f"l{n}": "" for n in range(65)}}, "labels: expected `object` of length <= 64"),
        ({"labels": {"a": "x" * 1001}}, "labels[...]: expected `str` of length <= 1000"),
        ({"ttl": 0}, "ttl: expected `int` >= 1"),
        ({"ttl": 3601}, "ttl: expected `int` <= 3600"),
        ({"epoch": 2**63}, "epoch: "),
        ({"epoch": "1"}, "epoch: expected `int`, got `str`"),
        ({"locality": {"rack": "7"}}, "unknown field rack"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_it(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError) as error:
        parse_registration(body(**changes))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b'{"service": "\xff"}', b"[" * 5000])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(RecordError):
        parse_registration(text)


def test_too_much_is_refused() -> None:
    with pytest.raises(RecordError, match=f"at most {MAX_BODY} are taken"):
        parse_registration(b" " * MAX_BODY + body())


@given(st.binary(max_size=200))
def test_nothing_but_a_refusal_comes_of_any_bytes(text: bytes) -> None:
    for parse in (parse_registration, lambda b: parse_workload("w", b)):
        with contextlib.suppress(RecordError):
            parse(text)


def test_a_record_is_read_as_it_was_written_and_equal_ones_are_equal_bytes() -> None:
    workload = to_workload(parse_registration(body(labels={"b": "1", "a": "2"})), "vm-1", "host-15014")
    other = to_workload(parse_registration(body(labels={"a": "2", "b": "1"})), "vm-1", "host-15014")

    assert parse_workload("vm-1", to_record(workload)) == workload
    assert to_record(workload) == to_record(other)
    with pytest.raises(RecordError, match="it says that it is 'vm-1'"):
        parse_workload("vm-2", to_record(workload))


def test_a_record_of_a_later_release_is_read_for_what_is_known() -> None:
    workload = to_workload(parse_registration(body()), "vm-1", "host-15014")
    later = msgspec.json.encode(msgspec.json.decode(to_record(workload)) | {"mood": "sunny"})

    assert parse_workload("vm-1", later) == workload


@pytest.mark.parametrize("id_", ["vm-1", "vm-1~reviews", "10.0.0.5:9080", "a" * 200, "A_b.c@d"])
def test_ids(id_: str) -> None:
    check_id(id_)


@pytest.mark.parametrize("id_", ["", ".", "..", "a/b", "-a", "a" * 201, "a b", "ä", "a\0", "a.new"])
def test_what_is_no_id(id_: str) -> None:
    with pytest.raises(RecordError, match="expected at most 200 letters"):
        check_id(id_)
