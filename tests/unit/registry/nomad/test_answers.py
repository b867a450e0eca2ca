"""Reading Nomad's JSON: what is odd is tolerated, what is broken is named, nothing is fatal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Origin
from isthmus.registry.nomad import answers
from isthmus.registry.nomad.answers import (
    Event,
    ServiceName,
    parse_allocation_payload,
    parse_batch,
    parse_checks,
    parse_job_payload,
    parse_listing,
    parse_node_payload,
    parse_service_payload,
    parse_services,
)
from isthmus.registry.nomad.health import Evidence
from isthmus.registry.nomad.parse import Listed, Rules, parse_service

# As Nomad 1.10.0 wrote them, shortened where nobody reads.
REGISTRATION = {
    "Address": "127.0.0.1",
    "AllocID": "4ead4139-d4f3-8200-16d2-1c3a6c567b4b",
    "CreateIndex": 13,
    "Datacenter": "dc1",
    "ID": "_nomad-task-4ead4139-d4f3-8200-16d2-1c3a6c567b4b-group-web-web-http",
    "JobID": "web",
    "ModifyIndex": 13,
    "Namespace": "default",
    "NodeID": "4eca1172-e958-24d0-9d7f-480d70dcc9cd",
    "Port": 24589,
    "ServiceName": "web",
    "Tags": ["version=v1", "canary"],
}
ALLOCATION = {
    "AllocModifyIndex": 11,
    "AllocatedResources": {"Shared": {"DiskMB": 10, "Networks": [{"DynamicPorts": [{"Label": "http"}]}]}},
    "ClientStatus": "running",
    "DeploymentStatus": {"Canary": False, "Healthy": True, "ModifyIndex": 16, "Timestamp": "2026-11-20T22:39:00Z"},
    "DesiredStatus": "run",
    "DesiredTransition": {"Migrate": None},
    "ID": "4ead4139-d4f3-8200-16d2-1c3a6c567b4b",
    "JobID": "web",
    "ModifyIndex": 16,
    "Namespace": "default",
    "NodeID": "4eca1172-e958-24d0-9d7f-480d70dcc9cd",
    "NodeName": "node-0",
    "TaskGroup": "web",
    "TaskStates": {"server": {"State": "running"}},
}
NODE = {
    "Attributes": {"os.name": "debian"},
    "Datacenter": "dc1",
    "DrainStrategy": {"Deadline": 60000000000, "IgnoreSystemJobs": False, "StartedAt": "2026-11-20T22:39:40Z"},
    "ID": "4eca1172-e958-24d0-9d7f-480d70dcc9cd",
    "Meta": {"zone": "z1"},
    "ModifyIndex": 71,
    "Name": "node-0",
    "SchedulingEligibility": "ineligible",
    "Status": "ready",
}
JOB = {
    "Affinities": None,
    "ID": "web",
    "JobModifyIndex": 10,
    "ModifyIndex": 11,
    "Namespace": "default",
    "Stop": False,
    "TaskGroups": [
        {
            "Name": "web",
            "Networks": [{"Mode": "host"}],
            "Services": [
                {"Name": "web", "PortLabel": "http", "Provider": "nomad", "Checks": [{"Name": "alive", "Type": "http"}]}
            ],
            "Tasks": [{"Name": "server", "Services": None}],
        }
    ],
    "Type": "service",
    "Version": 1,
}


def event(topic: str, type_: str, payload: object) -> dict[str, Any]:
    return {
        "FilterKeys": ["web", "web"],
        "Index": 20,
        "Key": "key",
        "Namespace": "default",
        "Payload": {topic: payload},
        "Topic": topic,
        "Type": type_,
    }


LINE = {
    "Index": 20,
    "Events": [
        event("Service", "ServiceRegistration", REGISTRATION),
        event("Allocation", "AllocationUpdated", ALLOCATION),
        event("Node", "NodeDrain", NODE),
        event("Job", "JobRegistered", JOB),
    ],
}

READERS: dict[str, Callable[[Event], object]] = {
    "Service": parse_service_payload,
    "Allocation": parse_allocation_payload,
    "Node": parse_node_payload,
    "Job": parse_job_payload,
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


def mutated(value: Any, mutations: list[tuple[tuple[Any, ...], object]]) -> Any:
    """A copy of a JSON value with other values at some paths, as far as these still exist."""
    for path, new in mutations:
        if path in paths(value):
            value = _with_replaced(value, path, new)
    return value


def _with_replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _with_replaced(value[path[0]], path[1:], new)
    return copy


def mutations(value: object) -> st.SearchStrategy[list[tuple[tuple[Any, ...], object]]]:
    return st.lists(st.tuples(st.sampled_from(paths(value)), JSON), max_size=3)


@given(mutations(REGISTRATION))
def test_no_mutation_of_a_registration_spoils_its_neighbour(changes: list[tuple[tuple[Any, ...], object]]) -> None:
    """Whatever a registration looks like, it is read or quarantined by name, and the good one beside it is a service."""
    good = REGISTRATION | {"ID": "good", "Address": "10.0.0.9", "Port": 8080}
    listing = parse_listing(json.dumps([mutated(REGISTRATION, changes), good]).encode())
    listed = [Listed(r, Evidence(r.service, None, None, None, None)) for r in listing.registrations]
    parsed = parse_service(Origin("global", "nomad"), ServiceName("default", "web"), listed, Rules(), 0)
    assert parsed.service is not None
    assert "10.0.0.9" in {i.address for i in parsed.service.instances}
    assert len(parsed.service.instances) + len(listing.unreadable) + len(parsed.quarantined) >= 2
    assert all(where and reason for where, reason in listing.unreadable)
    assert all(q.where and q.reason for q in parsed.quarantined)


@given(mutations(LINE))
def test_no_mutation_of_an_event_is_more_than_a_decode_error(changes: list[tuple[tuple[Any, ...], object]]) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        for one in parse_batch(json.dumps(mutated(LINE, changes)).encode()).events or ():
            if one.topic in READERS:
                with contextlib.suppress(msgspec.DecodeError):
                    READERS[one.topic](one)


@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_no_body_is_more_than_a_decode_error(body: bytes) -> None:
    for name in dir(answers):
        if name.startswith("parse_") and not name.endswith("_payload"):
            with contextlib.suppress(msgspec.DecodeError):
                getattr(answers, name)(body)


def test_a_line_as_nomad_writes_it_is_read() -> None:
    line = parse_batch(json.dumps(LINE).encode())
    assert line.events is not None
    service, alloc, node, job = line.events
    registration = parse_service_payload(service)
    assert (registration.service, registration.alloc, registration.port) == ("web", ALLOCATION["ID"], 24589)
    found = parse_allocation_payload(alloc)
    assert found.deployment is not None
    assert (found.client, found.desired, found.deployment.healthy) == ("running", "run", True)
    drained = parse_node_payload(node)
    assert drained.drain is not None
    assert drained.meta == {"zone": "z1"}
    spec = parse_job_payload(job)
    assert spec is not None
    assert (spec.version, spec.stop) == (1, False)


@pytest.mark.parametrize("body", [b"{}", b'{"Index": 7}', b'{"Index": 7, "Events": null}'])
def test_a_heartbeat_has_no_events(body: bytes) -> None:
    assert not parse_batch(body).events


def test_nothing_may_be_null_an_empty_list_or_missing() -> None:
    """As Go writes what is empty."""
    assert parse_services(b"null") == frozenset()
    assert parse_services(b'[{"Namespace": "default", "Services": null}]') == frozenset()
    assert parse_listing(b"null").registrations == ()
    assert parse_checks(b"null") == ()
    assert parse_job_payload(Event("Job", payload=msgspec.Raw(b'{"Job": null}'))) is None


def test_the_same_name_in_two_namespaces_is_two_services() -> None:
    body = b'[{"Namespace": "a", "Services": [{"ServiceName": "w"}]}, {"Namespace": "b", "Services": [{"ServiceName": "w"}]}]'
    assert parse_services(body) == {ServiceName("a", "w"), ServiceName("b", "w")}
