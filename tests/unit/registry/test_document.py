"""The written form of services, both ways."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.document import Document, parse_document
from isthmus.registry.model import Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.registry.written import to_document

REVIEWS = b"""
services:
- name: reviews
  hostnames: [reviews.example.com]
  ports: [{name: http-api, number: 9080}, {name: grpc, number: 9090}]
  instances:
  - address: 10.0.0.1
  - id: second
    address: 10.0.0.2
    ports: {http-api: 19080}
    health: draining
    weight: 3
    labels: {version: v2}
    locality: {region: eu, zone: eu-1}
"""


def _services(document: Document) -> dict[str, Service]:
    assert document.problems == ()
    return {str(e.service.key): e.service for e in document.entries}


def test_reads_everything_that_can_be_written() -> None:
    assert _services(parse_document(REVIEWS, "files", {"file": "reviews.yaml"})) == {
        "reviews.default": Service(
            key=ServiceKey("default", "reviews"),
            ports=(Port("http-api", 9080, Protocol.HTTP), Port("grpc", 9090, Protocol.GRPC)),
            instances=(
                Instance(
                    id="10.0.0.1:9080",
                    origin="files",
                    address="10.0.0.1",
                    ports={"http-api": 9080, "grpc": 9090},
                    provenance={"file": "reviews.yaml"},
                ),
                Instance(
                    id="second",
                    origin="files",
                    address="10.0.0.2",
                    ports={"http-api": 19080},
                    health=Health.DRAINING,
                    weight=3,
                    locality=Locality("eu", "eu-1"),
                    labels={"version": "v2"},
                    provenance={"file": "reviews.yaml"},
                ),
            ),
            hostnames=frozenset({"reviews.example.com"}),
        )
    }


def test_json_is_read_as_well_with_everything_that_json_may_contain() -> None:
    """Tabs and escaped surrogate pairs are JSON, and are not YAML."""
    text = b'{\n\t"services": [\n\t{"name": "a", "ports": [{"name": "http", "number": 80}],'
    text += b'"instances": [{"address": "10.0.0.1", "labels": {"mood": "\\ud83d\\ude00"}}]}]}'
    (service,) = _services(parse_document(text, "files")).values()
    assert service.instances[0].labels == {"mood": "\N{GRINNING FACE}"}


NAMES = st.from_regex(r"[a-z]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True)
HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,4}){0,2}", fullmatch=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
LABELS = st.dictionaries(WORDS, WORDS, max_size=3)
PORTS = st.lists(
    st.builds(Port, NAMES, st.integers(1, 65535), st.sampled_from(Protocol)),
    min_size=1,
    max_size=3,
    unique_by=(lambda p: p.name, lambda p: p.number),
).map(lambda ports: tuple(sorted(ports, key=lambda p: p.number)))


@st.composite
def services(draw: st.DrawFn) -> Service:
    ports = draw(PORTS)
    instances = draw(
        st.lists(
            st.builds(
                Instance,
                id=NAMES,
                origin=st.just("files"),
                address=st.ip_addresses().map(str) | st.just("unix:///run/a.sock") | st.just("a.example.com"),
                ports=st.dictionaries(st.sampled_from([p.name for p in ports]), st.integers(0, 65535)),
                health=st.sampled_from(Health),
                weight=st.integers(0, 2**32 - 1),
                locality=st.builds(Locality, WORDS, WORDS, WORDS),
                labels=LABELS,
                network=WORDS,
                identity=WORDS,
                tls_mode=WORDS,
                provenance=LABELS,
            ),
            max_size=3,
            unique_by=lambda i: i.id,
        )
    )
    return Service(
        key=ServiceKey(draw(NAMES), draw(NAMES)),
        ports=ports,
        instances=tuple(sorted(instances, key=lambda i: i.id)),
        hostnames=frozenset(draw(st.lists(HOSTS, max_size=2))),
        external=draw(st.booleans()),
    )


@given(st.lists(services(), max_size=3, unique_by=lambda s: s.key))
def test_what_is_written_reads_back_the_same(known: list[Service]) -> None:
    document = to_document(known)
    expected = {str(s.key): s for s in known}
    assert _services(parse_document(yaml.safe_dump(document, sort_keys=False).encode(), "files")) == expected
    assert _services(parse_document(json.dumps(document).encode(), "files")) == expected


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ("{address: 10.0.0.300}", "'10.0.0.300' is not an IP address, a host name, or unix:///path"),
        ("{address: ''}", "Expected `str` of length >= 1"),
        ("{}", "missing required field `address`"),
        ("{address: 10.0.0.1, ports: {web: 80}}", "the service has no port web, only http"),
        ("{address: 10.0.0.1, ports: {http: 70000}}", "<= 65535"),
        ("{address: 10.0.0.1, health: sick}", "accepted are healthy, degraded, draining, unhealthy, unknown"),
        ("{address: 10.0.0.1, wait: 1}", "unknown field `wait`"),
        ("{address: 10.0.0.1, weight: -1}", ">= 0"),
        ("{address: 10.0.0.1, labels: {version: 1.10}}", "expected `str`, got `float` (quote it)"),
        ("{address: 10.0.0.0, id: first}", "the instance id first stands twice"),
    ],
)
def test_a_wrong_instance_is_named_with_its_line_and_the_other_services_are_taken(instance: str, reason: str) -> None:
    text = f"""services:
- name: good
  ports: [{{name: http, number: 80}}]
- name: bad
  ports: [{{name: http, number: 80}}]
  instances:
  - {{address: 10.0.0.1, id: first}}
  - {instance}
"""
    document = parse_document(text.encode(), "files")
    assert [e.service.key.name for e in document.entries] == ["good"]
    (problem,) = document.problems
    assert problem.line == 8
    assert problem.reason.startswith("service bad.default: ")
    assert reason.lower() in problem.reason.lower()
    assert not document.broken


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 1, "the file is empty"),
        (b"# nothing\n", 1, "the file is empty"),
        (b"- a", 1, "a mapping with the key `services` is expected"),
        (b"services:\n  a: b", 2, "`services` with a list is expected"),
        (b"services: []\nservice: []", 2, "unknown key 'service'"),
        (b'{"services": [\n{"name": "a",,}]}', 2, "not JSON"),
        (b"services:\n- name: a\n  ports: [", 3, "not YAML"),
    ],
)
def test_a_text_of_which_nothing_can_be_used_is_broken(text: bytes, line: int, reason: str) -> None:
    document = parse_document(text, "files")
    assert document.broken
    assert document.entries == ()
    (problem,) = document.problems
    assert (problem.line, reason in problem.reason) == (line, True), problem


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        ("[]", "length >= 1"),
        ("[{name: a, number: 1}, {name: a, number: 2}]", "the port name a stands twice"),
        ("[{name: a, number: 1}, {name: b, number: 1}]", "the port number 1 stands twice"),
        ("[{name: a, number: 1, protocol: udp}]", "accepted are http, http2, grpc"),
    ],
)
def test_wrong_ports_are_named(ports: str, reason: str) -> None:
    (problem,) = parse_document(f"services:\n- name: a\n  ports: {ports}".encode(), "files").problems
    assert problem.line == 3
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("name", "protocol"),
    [("http", "http"), ("http-api", "http"), ("http2-x", "http2"), ("grpc-web-1", "grpc-web"), ("grpc-x", "grpc"),
     ("redis", "tcp"), ("httpx", "tcp")],
)  # fmt: skip
def test_the_protocol_follows_from_the_name_of_the_port(name: str, protocol: str) -> None:
    text = f"services: [{{name: a, ports: [{{name: {name}, number: 1}}]}}]"
    (service,) = _services(parse_document(text.encode(), "files")).values()
    assert service.ports[0].protocol.value == protocol
