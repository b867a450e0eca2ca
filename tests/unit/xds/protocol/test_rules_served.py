"""Rules that a machine cannot keep alone: those of a stream's beginning and end, and of what every response carries."""

from __future__ import annotations

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse

from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.services import DELTA_PATH, SOTW_PATH
from tests.unit.xds.server.wire import GRPC_GROUP, Served, subscribe


@pytest.fixture
async def served() -> Served:
    served = Served()
    served.publish({"a": "1", "b": "1"})
    return served


@pytest.mark.parametrize("version", ["v2", "v4alpha"])
async def test_the_method_tells_the_version(served: Served, version: str) -> None:
    """Rule 1: others than v3 are refused by name, whatever types are asked for."""
    path = f"/envoy.service.discovery.{version}.AggregatedDiscoveryService/StreamAggregatedResources"
    stream = served.wire.open(path)
    code, text = served.wire.closed[stream]
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert path in text


async def test_the_node_is_that_of_the_first_request(served: Served) -> None:
    """Rule 3: later ones may have none, and one that differs makes nobody else of the stream."""
    served.publish({"a": "for gRPC"}, GRPC_GROUP)
    stream = served.delta("a", node="one")
    served.ack(stream)
    served.wire.say(stream, subscribe(["b"], node="other", agent="gRPC Go"))
    assert served.contents(stream) == {"a": "1", "b": "1"}
    assert [(p.node, p.kind) for p in served.server.proxies()] == [("one", "envoy")]


async def test_every_response_says_who_it_is_from(served: Served) -> None:
    """Rule 6: it is in Envoy's statistics and in the logs of others."""
    delta, sotw = served.delta("a"), served.sotw("a")
    assert [r.control_plane.identifier for r in served.responses(delta)] == ["test"]
    assert [DiscoveryResponse.FromString(m).control_plane.identifier for m in served.wire.sent[sotw]] == ["test"]


async def test_a_refusal_ends_no_stream(served: Served) -> None:
    """Rule 7: for gRPC's libraries that would be a loss of connection, and they would come back later and later."""
    stream = served.delta()
    for content in "2345":
        last = served.responses(stream)[-1]
        refusal = DeltaDiscoveryRequest(type_url=last.type_url, response_nonce=last.nonce)
        refusal.error_detail.message = "Error adding/updating cluster(s) a: no good"
        served.wire.say(stream, refusal)
        served.publish({"a": content, "b": content})
    assert not served.wire.closed
    assert served.contents(stream)["b"] == "5"


async def test_nothing_expires(served: Served) -> None:
    """Rules 28 and 34: every resource has its version and its body, plain, and no time to live, also for who could take one."""
    streams = {}
    for path in (DELTA_PATH, SOTW_PATH):
        request = (DeltaDiscoveryRequest if path == DELTA_PATH else DiscoveryRequest)(type_url=TypeUrl.CLUSTER)
        request.node.id = "envoy"
        request.node.client_features.extend(
            ["xds.config.supports-resource-ttl", "xds.config.supports-resource-in-sotw"]
        )
        streams[path] = served.wire.open(path)
        served.wire.say(streams[path], request)

    for resource in served.responses(streams[DELTA_PATH])[0].resources:
        assert resource.version == Resource.of_bytes(TypeUrl.CLUSTER, resource.name, b"1").version
        assert resource.HasField("resource")
        assert not resource.HasField("ttl")
    (whole,) = served.wire.sent[streams[SOTW_PATH]]
    assert {r.type_url for r in DiscoveryResponse.FromString(whole).resources} == {TypeUrl.CLUSTER}


async def test_what_does_not_exist_is_an_error_and_no_resource(served: Served) -> None:
    """Rule 33: by name, with a text that says what to do, and not for who asks for everything."""
    some = served.sotw("a", "z", agent="gRPC C-core")
    everything = served.sotw()
    (message,) = served.wire.sent[some]
    response = DiscoveryResponse.FromString(message)
    assert [r.value for r in response.resources] == [b"1"]
    (error,) = response.resource_errors
    assert error.resource_name.name == "z"
    assert "isthmus services" in error.error_detail.message
    assert not DiscoveryResponse.FromString(served.wire.sent[everything][0]).resource_errors
