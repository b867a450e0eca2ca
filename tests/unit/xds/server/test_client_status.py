"""CSDS: what each client has, asked over gRPC."""

from __future__ import annotations

import grpc
import pytest
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse, ConfigStatus
from google.protobuf.json_format import ParseDict
from google.rpc.status_pb2 import Status

from isthmus.xds.resource import TypeUrl
from isthmus.xds.server import client_status
from isthmus.xds.server.services import CLIENT_STATUS
from tests.unit.xds.server.wire import Served
from tests.wait import eventually

ONCE, STREAM = CLIENT_STATUS + "FetchClientStatus", CLIENT_STATUS + "StreamClientStatus"


async def ask(served: Served, request: dict[str, object], path: str = ONCE) -> tuple[int, ClientStatusResponse]:
    """The answer, however many slices it takes."""
    stream = served.wire.open(path)
    served.wire.say(stream, ParseDict(request, ClientStatusRequest()))
    served.wire.finish(stream)
    await eventually(lambda: served.wire.sent[stream] or stream in served.wire.closed, "an answer")
    return stream, ClientStatusResponse.FromString(b"".join(served.wire.sent[stream]))


def states(answer: ClientStatusResponse) -> dict[str, dict[str, str]]:
    """By node and name (empty: the type as a whole) the state."""
    return {
        c.node.id: {g.name: ConfigStatus.Name(g.config_status) for g in c.generic_xds_configs} for c in answer.config
    }


async def test_what_each_client_has() -> None:
    """Versions as sent, and where it stands: in step, behind, or refused with the client's reason. Rule 51."""
    served = Served()
    served.publish({"a": "one", "b": "two"})
    synced, stale, refused = served.delta(node="synced"), served.delta(node="stale"), served.delta(node="refused")
    served.ack(synced)
    last = served.responses(refused)[-1]
    served.wire.say(
        refused,
        DeltaDiscoveryRequest(
            type_url=last.type_url,
            response_nonce=last.nonce,
            error_detail=Status(code=3, message="Error adding/updating cluster(s) b: no such cipher"),
        ),
    )
    assert stale

    stream, answer = await ask(served, {})

    assert states(answer) == {
        "synced": {"": "SYNCED", "a": "SYNCED", "b": "SYNCED"},
        "stale": {"": "STALE", "a": "STALE", "b": "STALE"},
        "refused": {"": "ERROR", "a": "SYNCED", "b": "ERROR"},
    }
    (config,) = (c for c in answer.config if c.node.id == "refused")
    assert "no such cipher" in config.generic_xds_configs[0].error_state.details
    (config,) = (c for c in answer.config if c.node.id == "synced")
    (a,) = (g for g in config.generic_xds_configs if g.name == "a")
    assert a.version_info == served.server.snapshot.of_type(TypeUrl.CLUSTER)["a"].version
    assert (a.xds_config.type_url, a.xds_config.value) == (TypeUrl.CLUSTER, b"one")
    assert served.wire.closed[stream][0] is grpc.StatusCode.OK


async def test_what_was_asked_for_and_does_not_exist() -> None:
    """Under its name, until it exists; a type that is not served has nothing else."""
    served = Served()
    served.publish({"a": "one"})
    served.ack(served.delta("a", "b", node="web"))
    assert served.sotw("nothing", type_url="type.example/unknown", node="odd")

    _, answer = await ask(served, {})
    assert states(answer)["web"] == {"": "SYNCED", "a": "SYNCED", "b": "NOT_SENT"}
    assert states(answer)["odd"] == {"": "NOT_SENT", "nothing": "NOT_SENT"}
    (config,) = (c for c in answer.config if c.node.id == "web")
    (b,) = (g for g in config.generic_xds_configs if g.name == "b")
    assert b.client_status == ClientResourceStatus.DOES_NOT_EXIST

    served.publish({"a": "one", "b": "two"})
    _, answer = await ask(served, {})
    assert states(answer)["web"]["b"] == "STALE"


async def test_only_what_was_asked_for() -> None:
    served = Served()
    served.publish({"a": "one"})
    for node in ("web-1", "web-2", "db-1"):
        served.ack(served.delta(node=node))

    _, prefixed = await ask(served, {"node_matchers": [{"node_id": {"prefix": "web-"}}]})
    _, either = await ask(
        served,
        {
            "node_matchers": [{"node_id": {"exact": "db-1"}}, {"node_id": {"suffix": "-2"}}],
            "exclude_resource_contents": True,
        },
    )

    assert states(prefixed).keys() == {"web-1", "web-2"}
    assert states(either).keys() == {"db-1", "web-2"}
    assert not any(g.HasField("xds_config") for c in either.config for g in c.generic_xds_configs)


async def test_names_that_were_not_asked_for_are_not_there() -> None:
    served = Served()
    served.publish({"a": "one", "b": "two"})
    served.ack(served.delta("a"))

    _, answer = await ask(served, {})

    assert states(answer) == {"envoy": {"": "SYNCED", "a": "SYNCED"}}


async def test_a_stream_answers_each_request() -> None:
    served = Served()
    served.publish({"a": "one"})
    proxy = served.delta()
    stream = served.wire.open(STREAM)

    served.wire.say(stream, ClientStatusRequest())
    await eventually(lambda: len(served.wire.sent[stream]) == 1, "the first answer")
    served.ack(proxy)
    served.wire.say(stream, ClientStatusRequest())
    await eventually(lambda: len(served.wire.sent[stream]) == 2, "the second answer")

    found = [states(ClientStatusResponse.FromString(m))["envoy"][""] for m in served.wire.sent[stream]]
    assert found == ["STALE", "SYNCED"]
    assert stream not in served.wire.closed


async def test_a_long_answer_leaves_the_loop_to_others_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies are served meanwhile; what would be too long is refused with what to do."""
    served = Served()
    served.publish({f"cluster{i}": "x" * 100 for i in range(5_000)})
    served.ack(served.delta())
    stream = served.wire.open(ONCE)

    served.wire.say(stream, ClientStatusRequest())

    assert not served.wire.sent[stream]
    assert served.contents(served.delta("cluster1"))
    await eventually(lambda: served.wire.sent[stream], "the answer")
    monkeypatch.setattr(client_status, "ANSWER_LIMIT", 10_000)
    stream, _ = await ask(served, {})
    code, text = served.wire.closed[stream]
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "node_matchers" in text


@pytest.mark.parametrize(
    "matcher",
    [{"node_id": {"safe_regex": {"regex": ".*"}}}, {"node_metadatas": [{"path": [{"key": "x"}]}]}, {}],
    ids=["regex", "metadata", "nothing"],
)
async def test_a_matcher_that_is_not_understood(matcher: dict[str, object]) -> None:
    """Better than an answer about the wrong clients."""
    served = Served()
    served.publish({"a": "one"})
    served.delta()

    stream, _ = await ask(served, {"node_matchers": [matcher]})

    code, text = served.wire.closed[stream]
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "exact, prefix, suffix, contains" in text


async def test_bytes_that_are_no_request() -> None:
    served = Served()
    stream = served.wire.open(ONCE)

    served.wire.say(stream, b"\xff")

    assert served.wire.closed[stream][0] is grpc.StatusCode.INVALID_ARGUMENT
