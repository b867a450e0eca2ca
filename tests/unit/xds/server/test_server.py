"""The server between its transport and the machines: who is served what, how fast, and how much is kept for whom."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryResponse

from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.views import ENVOY_GROUP
from tests.unit.xds.server.wire import GRPC_GROUP, Served, subscribe
from tests.wait import eventually


async def test_who_does_not_read_gets_the_newest_state_and_costs_no_memory() -> None:
    """Whatever happens meanwhile, one round of responses is kept for it at most. Rule 42."""
    served = Served()
    served.publish({"a": "0"})
    slow, quick = served.delta(), served.delta()
    served.ack(slow)
    served.wire.stuck.add(slow)

    for i in range(1, 1_001):
        served.publish({"a": str(i)})
        served.ack(quick)

    assert served.contents(quick) == {"a": "1000"}
    assert len(served.wire.sent[quick]) == 1_001
    served.wire.free(slow)
    assert len(served.wire.sent[slow]) == 2
    served.ack(slow)
    assert served.contents(slow) == {"a": "1000"}
    assert len(served.wire.sent[slow]) <= 3


async def test_streams_that_are_due_the_same_share_its_bytes() -> None:
    """One object for all, at the first answer and at a change; in each variant."""
    served = Served()
    served.publish({f"cluster{i}": "before" for i in range(50)})
    for streams in ([served.delta() for _ in range(20)], [served.sotw() for _ in range(20)]):
        assert len({id(served.wire.sent[s][-1]) for s in streams}) == 1
        assert all(len(served.wire.sent[s]) == 1 for s in streams)
    deltas = [served.delta() for _ in range(20)]
    for stream in deltas:
        served.ack(stream)

    served.publish({f"cluster{i}": "after" if i == 7 else "before" for i in range(50)})

    assert len({id(served.wire.sent[s][-1]) for s in deltas}) == 1
    assert [r.name for r in served.responses(deltas[0])[-1].resources] == ["cluster7"]


async def test_a_fan_out_to_many_leaves_the_loop_to_others() -> None:
    """It goes on in slices; until its turn has come a proxy is shown as not yet in step."""
    served = Served()
    served.publish({"a": "before"})
    streams = [served.delta(node=f"envoy{i}") for i in range(2_000)]
    for stream in streams:
        served.ack(stream)

    served.publish({"a": "after"})

    waiting = [s for s in streams if len(served.wire.sent[s]) == 1]
    assert 0 < len(waiting) < len(streams)
    states = [p.types[0].state for p in served.server.proxies()]
    assert states == ["STALE"] * len(streams)
    served.publish({"a": "after that"})
    await eventually(lambda: all(len(served.wire.sent[s]) == 2 for s in waiting), "all are served")
    assert {served.contents(s)["a"] for s in waiting} == {"after that"}


async def test_a_fan_out_is_over_when_everyone_has_been_sent_it() -> None:
    served = Served()
    served.publish({"a": "before"})
    streams = [served.delta(node=f"envoy{i}") for i in range(2_000)]
    for stream in streams:
        served.ack(stream)
    async with asyncio.timeout(10):
        await served.server.fanned_out()
        served.publish({"a": "after"})
        assert any(served.contents(s)["a"] == "before" for s in streams)

        await served.server.fanned_out()

    assert {served.contents(s)["a"] for s in streams} == {"after"}


class TestAViewThatIsStillToBeMade:
    async def test_is_waited_for_by_those_who_ask_for_it_and_by_nobody_else(self) -> None:
        served = Served()
        served.publish({"a": "envoy"})
        envoy = served.snapshot()
        served.server.update({ENVOY_GROUP: envoy, GRPC_GROUP: None})
        wanted = asyncio.create_task(served.server.wanted())
        assert served.contents(served.delta()) == {"a": "envoy"}
        await asyncio.sleep(0)
        assert not wanted.done()

        caller = served.delta("a", agent="gRPC Go")
        assert not served.wire.sent[caller]
        async with asyncio.timeout(10):
            await wanted
        assert GRPC_GROUP in served.server.groups
        served.publish({"a": "grpc"}, GRPC_GROUP)

        assert served.contents(caller) == {"a": "grpc"}

    async def test_leaves_those_who_have_an_earlier_one_with_that(self) -> None:
        served = Served()
        served.publish({"a": "envoy"})
        served.publish({"a": "grpc"}, GRPC_GROUP)
        caller = served.delta("a", agent="gRPC Go")
        served.ack(caller)

        served.server.update({ENVOY_GROUP: served.snapshot(), GRPC_GROUP: None})
        assert served.contents(caller) == {"a": "grpc"}
        assert caller not in served.wire.closed
        async with asyncio.timeout(10):
            await served.server.wanted()
        served.publish({"a": "later"}, GRPC_GROUP)

        assert served.contents(caller) == {"a": "later"}

    async def test_is_not_wanted_by_who_has_left(self) -> None:
        served = Served()
        served.publish({"a": "envoy"})
        served.server.update({ENVOY_GROUP: served.snapshot(), GRPC_GROUP: None})
        served.wire.leave(served.delta("a", agent="gRPC Go"))

        served.server.update({ENVOY_GROUP: served.snapshot(), GRPC_GROUP: None})
        wanted = asyncio.create_task(served.server.wanted())
        await asyncio.sleep(0)

        assert not wanted.done()
        wanted.cancel()


class TestBeforeTheFirstView:
    async def test_requests_wait_and_are_answered_in_order(self) -> None:
        served = Served()
        stream = served.delta("a")
        for name in "bcd":
            served.wire.say(stream, DeltaDiscoveryRequest(type_url=TypeUrl.CLUSTER, resource_names_subscribe=[name]))
        assert stream in served.wire.paused
        assert not served.wire.sent[stream]

        served.publish({n: n for n in "abcd"})
        while len(served.contents(stream)) < 4:
            served.ack(stream)

        assert stream not in served.wire.paused

    async def test_the_proxy_is_known_by_name(self) -> None:
        served = Served()
        served.delta(node="early")

        (proxy,) = served.server.proxies()

        assert (proxy.node, proxy.types) == ("early", ())

    async def test_who_leaves_while_waiting_is_forgotten(self) -> None:
        served = Served()
        stream = served.delta()
        served.wire.leave(stream)

        served.publish({"a": "a"})

        assert not served.wire.sent[stream]
        assert served.server.proxies() == []


class TestViews:
    async def test_each_kind_of_client_is_served_its_own(self) -> None:
        served = Served()
        served.publish({"a": "for Envoy"})
        served.publish({"a": "for gRPC"}, GRPC_GROUP)

        assert served.contents(served.delta())["a"] == "for Envoy"
        stream = served.sotw("a", agent="gRPC Go")

        (message,) = served.wire.sent[stream]
        assert [r.value for r in DiscoveryResponse.FromString(message).resources] == [b"for gRPC"]
        assert served.server.snapshot.of_type(TypeUrl.CLUSTER)["a"].body == b"for Envoy"
        assert sorted(p.kind for p in served.server.proxies()) == ["envoy", "grpc"]

    async def test_a_change_of_one_is_nothing_to_the_others(self) -> None:
        served = Served()
        served.publish({"a": "for Envoy"})
        served.publish({"a": "for gRPC"}, GRPC_GROUP)
        envoy, client = served.delta(), served.delta("a", agent="gRPC C-core")
        for stream in (envoy, client):
            served.ack(stream)

        served.publish({"a": "for gRPC, later"}, GRPC_GROUP)

        assert served.contents(client)["a"] == "for gRPC, later"
        assert len(served.wire.sent[envoy]) == 1

    async def test_a_kind_without_a_view_is_served_that_of_envoys(self) -> None:
        served = Served()
        served.publish({"a": "for Envoy"})

        assert served.contents(served.delta("a", agent="gRPC C-core"))["a"] == "for Envoy"

    async def test_clients_whose_view_comes_from_elsewhere_are_told_to_come_back(self) -> None:
        """Generations of two views cannot be compared; a new stream begins with what the client holds."""
        served = Served()
        served.publish({"a": "for Envoy"})
        envoy, client = served.delta(), served.delta("a", agent="gRPC C-core")

        served.publish({"a": "for gRPC"}, GRPC_GROUP)

        assert served.wire.closed[client][0] is grpc.StatusCode.UNAVAILABLE
        assert envoy not in served.wire.closed
        assert served.contents(served.delta("a", agent="gRPC C-core"))["a"] == "for gRPC"

    async def test_envoys_must_have_one(self) -> None:
        served = Served()

        with pytest.raises(ValueError, match="no view for Envoys"):
            served.server.update({})


async def test_nothing_is_known_of_a_stream_before_its_first_request() -> None:
    served = Served()
    served.publish({"a": "a"})

    stream = served.wire.open()

    assert served.server.proxies() == []
    assert served.metric("isthmus_xds_streams") == 1
    served.wire.say(stream, subscribe())
    assert [p.node for p in served.server.proxies()] == ["envoy"]


async def test_a_client_that_has_finished_is_let_go() -> None:
    served = Served()
    served.publish({"a": "a"})
    stream = served.delta()

    served.wire.finish(stream)

    assert served.wire.closed[stream][0] is grpc.StatusCode.OK
