"""What a client may not have, it is refused with the name of the setting; what it wants too often, it waits for."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from structlog.testing import capture_logs

from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.limits import BURST_SECONDS, Limits, Pace
from isthmus.xds.server.services import CLIENT_STATUS, LOAD_REPORTS_PATH, SOTW_PATH
from tests.unit.xds.server.wire import Served, subscribe
from tests.wait import eventually

EXHAUSTED, INVALID = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT


def asks_for_clusters(*names: str) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=TypeUrl.CLUSTER, resource_names_subscribe=names)


def in_delta(served: Served) -> int:
    return served.delta("a", "b", "c")


def in_sotw(served: Served) -> int:
    return served.sotw("a", "b", "c")


def two_requests(served: Served) -> int:
    """Three names, in the first request and the second."""
    stream = served.delta("a", "b")
    served.wire.say(stream, asks_for_clusters("c"))
    return stream


def two_types(served: Served) -> int:
    stream = served.delta("a", "b")
    served.wire.say(stream, DeltaDiscoveryRequest(type_url=TypeUrl.ENDPOINT, resource_names_subscribe=["c"]))
    return stream


@pytest.mark.parametrize(
    "ask",
    [in_delta, in_sotw, two_requests, two_types],
    ids=["delta", "sotw", "in two requests", "of two types"],
)
async def test_too_many_subscriptions(ask: Callable[[Served], int]) -> None:
    served = Served(Limits(subscriptions=2))
    served.publish({"a": "a"})

    stream = ask(served)

    code, text = served.wire.closed[stream]
    assert code is EXHAUSTED
    assert text == "3 names are asked for on this stream; xds.limits.subscriptions allows 2"
    assert served.metric("isthmus_xds_refused_total", reason="subscriptions") == 1


async def test_as_many_subscriptions_as_are_allowed() -> None:
    """Names that are given back make room, and an acknowledgement that repeats them does not count twice."""
    served = Served(Limits(subscriptions=2))
    served.publish({"a": "a"})
    stream = served.delta("a", "b")
    request = asks_for_clusters("c")
    request.resource_names_unsubscribe.append("b")

    served.wire.say(stream, request)
    served.wire.say(stream, asks_for_clusters("c"))

    assert not served.wire.closed


async def test_a_message_that_is_too_long() -> None:
    served = Served(Limits(message_bytes=1 << 16))
    served.publish({"a": "a"})

    stream = served.delta("x" * (1 << 16))

    code, text = served.wire.closed[stream]
    assert code is EXHAUSTED
    assert text.endswith("bytes; xds.limits.message_bytes allows 65536")


async def test_a_node_that_is_too_big() -> None:
    """A node as big as Envoy's own passes; of none more is kept than status and grouping need."""
    served = Served(Limits(node_bytes=1 << 16))
    served.publish({"a": "a"})
    usual, excessive = subscribe(), subscribe()
    usual.node.MergeFrom(Node(metadata={"x": "y" * 60_000}))
    excessive.node.MergeFrom(Node(metadata={"x": "y" * 70_000}))

    streams = [served.wire.open() for _ in range(2)]
    for stream, request in zip(streams, (usual, excessive), strict=True):
        served.wire.say(stream, request)

    assert served.contents(streams[0]) == {"a": "a"}
    code, text = served.wire.closed[streams[1]]
    assert code is EXHAUSTED
    assert text.endswith("bytes; xds.limits.node_bytes allows 65536")


async def test_too_many_streams() -> None:
    """Those that are there go on, and one that leaves makes room. The log says it once, however many come back how often."""
    served = Served(Limits(streams=2))
    served.publish({"a": "a"})
    streams = [served.delta() for _ in range(2)]

    with capture_logs() as logs:
        refused = [served.wire.open() for _ in range(50)]

    assert {served.wire.closed[s] for s in refused} == {
        (EXHAUSTED, "no more streams are let in; xds.limits.streams allows 2")
    }
    assert [e["event"] for e in logs] == ["xds.refused"]
    assert served.metric("isthmus_xds_refused_total", reason="streams") == 50
    assert served.metric("isthmus_xds_streams") == 2
    served.wire.leave(streams[0])
    assert served.contents(served.delta()) == {"a": "a"}


async def test_a_flood_of_requests_is_slowed_and_not_obeyed() -> None:
    """What may come at once does, and then the transport stops reading until the next one may; nothing is lost."""
    rate = 20.0
    served = Served(Limits(requests_per_second=rate))
    served.publish({"a": "a"})
    stream = served.delta("name0")
    at_once = int(rate * BURST_SECONDS)

    with capture_logs() as logs:
        for i in range(1, at_once + 5):
            served.wire.say(stream, asks_for_clusters(f"name{i}"))

        assert stream in served.wire.paused
        assert at_once <= subscribed(served) < at_once + 3
        await eventually(lambda: subscribed(served) == at_once + 5, "the rest is looked at in time")
    assert [e["event"] for e in logs if e["log_level"] == "warning"] == ["xds.slowed"]
    assert served.metric("isthmus_xds_slowed_total") == 1
    assert not served.wire.closed
    other = served.delta()
    assert served.contents(other) == {"a": "a"}


def subscribed(served: Served) -> int:
    """Names that the first stream's requests, as far as they were looked at, have asked for."""
    return next(t.subscribed for p in served.server.proxies() for t in p.types)


def test_a_pace_allows_a_burst_and_then_its_rate() -> None:
    pace, rate = Pace(), 4.0
    for _ in range(int(rate * BURST_SECONDS)):
        assert pace.delay(100.0) == 0
        pace.take(100.0, rate)

    pace.take(100.0, rate)

    assert pace.delay(100.0) == pytest.approx(0.25)
    assert pace.delay(100.3) == 0
    assert pace.delay(100.0 + 1_000) == 0


class TestWhatNoClientSends:
    @pytest.mark.parametrize("path", ["/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck", "/", ""])
    async def test_a_method_that_is_not_there(self, path: str) -> None:
        served = Served()

        stream = served.wire.open(path)

        code, text = served.wire.closed[stream]
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert text.startswith(f"{path} is not served here")

    async def test_bytes_that_are_no_request(self) -> None:
        served = Served()
        served.publish({"a": "a"})
        stream = served.wire.open(SOTW_PATH)

        served.wire.say(stream, b"\xff\xff")

        assert served.wire.closed[stream] == (INVALID, "the request is not a discovery request")
        assert served.metric("isthmus_xds_refused_total", reason="protocol") == 1

    async def test_what_follows_a_refusal_is_not_looked_at(self) -> None:
        served = Served()
        served.publish({"a": "a"})
        stream = served.wire.open()
        served.wire.say(stream, b"\xff\xff")

        served.wire.say(stream, subscribe())

        assert not served.wire.sent[stream]
        assert served.server.proxies() == []


@pytest.mark.parametrize("path", [SOTW_PATH, CLIENT_STATUS + "StreamClientStatus", LOAD_REPORTS_PATH])
async def test_a_stream_that_says_nothing_is_ended(path: str) -> None:
    """One that has said something may be silent for ever."""
    served = Served(Limits(first_request_seconds=0.05))
    served.publish({"a": "a"})
    quiet, other = served.delta(), served.wire.open(path)

    with capture_logs() as logs:
        await eventually(lambda: other in served.wire.closed, "it is ended")

    code, text = served.wire.closed[other]
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert text == "no request within 0.05 s; xds.limits.first_request_seconds allows no more"
    assert [line["event"] for line in logs] == ["xds.refused"]
    assert served.metric("isthmus_xds_refused_total", reason="silence") == 1
    assert quiet not in served.wire.closed
    served.ack(quiet)
    assert [p.node for p in served.server.proxies()] == ["envoy"]


async def test_who_waits_for_the_first_registry_is_not_silent() -> None:
    """Its request has come and is not answered before there is anything to serve."""
    served = Served(Limits(first_request_seconds=0.05))
    waiting, silent = served.delta(), served.wire.open()
    await eventually(lambda: silent in served.wire.closed, "the other one is ended")
    served.publish({"a": "a"})
    assert served.contents(waiting) == {"a": "a"}
