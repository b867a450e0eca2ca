"""Reading Eureka's JSON: what is odd is tolerated, what is broken is named, nothing is fatal."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.eureka.answers import Application, Entry, parse_application, parse_instance, parse_listing
from isthmus.registry.eureka.known import Known
from isthmus.registry.eureka.parse import Rules
from isthmus.registry.eureka.replication import CANCEL, HEARTBEAT, REGISTER, STATUS_UPDATE, Change, parse_batch
from isthmus.registry.model import Origin
from tests.servers.eureka import mk_instance
from tests.unit.registry.eureka.mutate import almost, recorded


def read(body: bytes) -> list[Application]:
    return [parse_application(raw) for raw in parse_listing(body).applications]


def entries(body: bytes) -> dict[str, Entry]:
    return {e.record.id: e for application in read(body) for e in application.entries}


def only(**more: Any) -> Entry:
    """The one instance of an answer that has these fields instead of the usual ones."""
    return parse_instance(json.dumps(mk_instance("web", "web-1", **more)).encode())


def test_a_recorded_listing() -> None:
    listing = parse_listing(recorded("apps"))
    assert listing.hashcode == "DOWN_1_OUT_OF_SERVICE_1_STARTING_1_UP_2_"
    found = entries(recorded("apps"))
    assert len(found) == 5
    first = found["10.0.0.1:reviews:9080"]
    assert (first.record.app, first.record.status, first.record.ip) == ("REVIEWS", "UP", "10.0.0.1")
    assert (first.record.port, first.record.secure_port) == (9080, 0)
    assert first.record.metadata == {"management.port": "9081", "version": "v1", "weight": "3", "zone": "a"}
    assert (first.lease.interval, first.lease.duration) == (30, 90)
    assert first.lease.renewed > first.lease.registered
    amazon = found["10.0.0.2:reviews:9080"].record
    assert (amazon.status, amazon.overridden, amazon.secure_port) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE", 9443)
    assert amazon.zone == "b", "what the instance says of itself, not Amazon's availability zone"
    secure = found["10.0.1.1:ratings:0"].record
    assert (secure.port, secure.secure_port) == (0, 8443)
    assert secure.vips == ("ratings", "ratings.example:80")


def test_a_recorded_delta() -> None:
    found = entries(recorded("delta"))
    assert {id_: e.action for id_, e in found.items()} == {
        "10.0.0.1:reviews:9080": "MODIFIED",
        "10.0.0.2:reviews:9080": "MODIFIED",
        "10.0.0.3:reviews:9080": "ADDED",
        "10.0.1.1:ratings:0": "ADDED",
        "10.0.2.1:details:9080": "ADDED",
        "10.0.3.1:gone:9080": "DELETED",
    }


def test_a_recorded_delta_in_brief() -> None:
    found = entries(recorded("delta_compact"))
    assert {id_: e.action for id_, e in found.items()} == {
        "10.0.0.1:reviews:9080": "MODIFIED",
        "10.0.0.2:reviews:9080": "ADDED",
        "10.0.3.1:gone:9080": "DELETED",
    }
    assert parse_listing(recorded("delta_compact")).hashcode == "OUT_OF_SERVICE_1_STARTING_1_"
    record = found["10.0.0.1:reviews:9080"].record
    assert (record.app, record.updated, record.metadata) == ("REVIEWS", 1795259432669, {})


def test_a_recorded_instance() -> None:
    assert parse_instance(recorded("instance")).record == entries(recorded("apps"))["10.0.0.1:reviews:9080"].record


def test_a_recorded_batch() -> None:
    changes = parse_batch(recorded("batch"))
    read = [c for c in changes if isinstance(c, Change)]
    assert read == changes
    assert [c.action for c in read] == [
        *[REGISTER] * 6,
        HEARTBEAT,
        STATUS_UPDATE,
        CANCEL,
        STATUS_UPDATE,
        "DeleteStatusOverride",
    ]
    assert all(c.entry is not None for c in read[:6])
    assert [c.status for c in read[6:]] == ["", "OUT_OF_SERVICE", "", "OUT_OF_SERVICE", "UP"]


@pytest.mark.parametrize("name", ["apps", "delta"])
def test_one_object_stands_for_a_list_of_one(name: str) -> None:
    """Old codecs, and proxies that turn XML into JSON, unwrap single elements."""
    document = json.loads(recorded(name))
    whole = entries(recorded(name))
    for application in document["applications"]["application"]:
        one = application | {"instance": application["instance"][0]}
        body = json.dumps({"applications": {"apps__hashcode": "UP_1_", "application": one}}).encode()
        id_ = application["instance"][0]["instanceId"]
        assert entries(body) == {id_: whole[id_]}


@pytest.mark.parametrize("empty", [{}, {"application": []}, {"application": None}])
def test_nothing_is_an_answer(empty: dict[str, Any]) -> None:
    assert read(json.dumps({"applications": empty}).encode()) == []


def test_an_application_without_instances() -> None:
    body = b'{"applications": {"application": [{"name": "WEB"}, {"name": "API", "instance": null}]}}'
    assert read(body) == [Application("WEB"), Application("API")]


def test_numbers_and_booleans_may_be_texts_or_themselves() -> None:
    texts = only(port={"$": "8080", "@enabled": "true"}, securePort={"$": "8443", "@enabled": "false"})
    values = only(port={"$": 8080, "@enabled": True}, securePort={"$": 8443, "@enabled": False})
    assert (texts.record.port, texts.record.secure_port) == (8080, 0)
    assert (values.record.port, values.record.secure_port) == (8080, 0)


def test_both_spellings_of_the_override() -> None:
    assert only(overriddenstatus="OUT_OF_SERVICE").record.overridden == "OUT_OF_SERVICE"
    assert only(overriddenStatus="OUT_OF_SERVICE").record.overridden == "OUT_OF_SERVICE"


def test_both_names_of_the_last_renewal() -> None:
    assert only(leaseInfo={"renewalTimestamp": "5"}).lease.renewed == 5
    assert only(leaseInfo={"lastRenewalTimestamp": 6}).lease.renewed == 6


def test_an_unknown_status_is_unknown() -> None:
    assert only(status="SIDEWAYS").record.status == "UNKNOWN"


@pytest.mark.parametrize(
    ("more", "id_"),
    [
        ({"instanceId": "a"}, "a"),
        ({"instanceId": None, "metadata": {"instanceId": "b"}}, "b"),
        ({"instanceId": None, "dataCenterInfo": {"name": "Amazon", "metadata": {"instance-id": "i-1"}}}, "i-1"),
        ({"instanceId": None, "hostName": "h"}, "h:8080"),
    ],
)
def test_what_an_instance_is_called(more: dict[str, Any], id_: str) -> None:
    """Old clients have no instanceId."""
    assert only(**more).record.id == id_


@pytest.mark.parametrize("metadata", [None, "", [], {"@class": "java.util.Collections$EmptyMap"}])
def test_no_metadata(metadata: object) -> None:
    assert only(metadata=metadata).record.metadata == {}


def test_metadata_are_texts() -> None:
    said = {"b": True, "a": 1, "c": None, "d": {"e": 1}}
    assert only(metadata=said).record.metadata == {"a": "1", "b": "true", "d": '{"e":1}'}


def test_an_instance_that_cannot_be_read_does_not_spoil_the_others() -> None:
    good = mk_instance("web", "web-1")["instance"]
    bad = mk_instance("web", "web-2")["instance"] | {"port": {"$": "many"}}
    body = json.dumps({"applications": {"application": [{"name": "WEB", "instance": [good, bad, 7]}]}}).encode()
    (application,) = read(body)
    assert [e.record.id for e in application.entries] == ["web-1"]
    assert [where for where, _ in application.unreadable] == [
        "application WEB, instance web-2",
        "application WEB, instance ?",
    ]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b"<applications/>", b'{"applications": {"applica', b"\xff", b"[" * 100_000]
)
def test_what_is_no_listing_is_an_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        parse_listing(body)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "Explode", "appName": "WEB", "id": "web-1"},
        {"action": "Cancel", "appName": "", "id": "web-1"},
        {"action": "Cancel", "id": "web-1"},
        {
            "action": "Register",
            "appName": "WEB",
            "id": "web-2",
            "instanceInfo": mk_instance("web", "web-1")["instance"],
        },
        7,
    ],
)
def test_a_change_that_cannot_be_understood_is_named_and_the_others_are_taken(change: object) -> None:
    good = {"action": "Cancel", "appName": "web", "id": "web-9"}
    bad, read = parse_batch(json.dumps({"replicationList": [change, good]}).encode())
    assert isinstance(bad, str)
    assert read == Change(CANCEL, "WEB", "web-9")


def test_a_batch_has_a_limit() -> None:
    changes = [{"action": "Heartbeat", "appName": "WEB", "id": "web-1"}] * 5_001
    with pytest.raises(msgspec.DecodeError, match="at most 5000"):
        parse_batch(json.dumps({"replicationList": changes}).encode())


def feed_all(listing: bytes, delta: bytes, brief: bytes, batch: bytes) -> None:
    known = Known(Origin("spring", "eureka"), Rules(), "eureka:8761")
    known.heard_all(read(listing), "", 0.0, watched=False)
    known.take()
    with contextlib.suppress(msgspec.DecodeError):
        known.heard_delta(read(delta), "", 1.0)
    with contextlib.suppress(msgspec.DecodeError):
        known.lacking(read(brief))
    with contextlib.suppress(msgspec.DecodeError):
        for change in parse_batch(batch):
            if isinstance(change, Change):
                known.heard_change(change, 2.0)
    snapshot = known.take()
    for service in snapshot.services.values():
        assert [i.id for i in service.instances] == sorted({i.id for i in service.instances})
        assert service.ports
        for instance in service.instances:
            assert 1 <= instance.weight <= 128
            assert all(1 <= number <= 65535 for number in instance.ports.values())
            assert set(instance.ports) <= {p.name for p in service.ports}
    assert all(q.reason and q.where for q in snapshot.quarantined)


@given(almost("apps"), almost("delta"), almost("delta_compact"), almost("batch"))
def test_almost_right_answers_give_services_or_quarantine(
    listing: bytes, delta: bytes, brief: bytes, batch: bytes
) -> None:
    """Never an unhandled exception, and never an instance that cannot be called."""
    with contextlib.suppress(msgspec.DecodeError):
        feed_all(listing, delta, brief, batch)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_decode_error(body: bytes) -> None:
    for parse in (read, parse_instance, parse_batch):
        with contextlib.suppress(msgspec.DecodeError):
            parse(body)


@given(st.sampled_from(["apps", "delta", "batch"]), st.integers(0, 4000))
def test_a_truncated_answer_is_an_error(name: str, length: int) -> None:
    """Half an answer is not a smaller registry."""
    body = recorded(name)[:length]
    with pytest.raises(msgspec.DecodeError):
        parse_batch(body) if name == "batch" else parse_listing(body)
