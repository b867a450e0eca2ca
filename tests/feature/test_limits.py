"""The limits of the configuration on real gRPC streams, and many clients at once."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse
from google.protobuf.json_format import ParseDict

from isthmus.bridge.config import XdsConfig
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.limits import Limits
from isthmus.xds.server.services import CLIENT_STATUS, DELTA_PATH, path_of
from tests.feature.client import CDS, EDS, Refused
from tests.feature.conftest import World

REVIEWS = "outbound|80||reviews.default.mesh"


async def start(world: World, limits: Limits) -> None:
    world.configure(xds=XdsConfig("127.0.0.1:0", limits=limits))
    world.write("reviews", "10.0.0.1")
    await world.started()


async def test_1_500_clients_that_connect_at_once_are_all_served(world: World) -> None:
    """grpcio's own default would cancel those that wait (xds.md C3). A change reaches all of them; those beyond are told why.

    Rule 48.
    """
    count, channels = 1_500, 30
    await start(world, Limits(streams=count))
    first = DeltaDiscoveryRequest(type_url=EDS, resource_names_subscribe=[REVIEWS])

    async def connect(channel: grpc.aio.Channel, node: int) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        request = DeltaDiscoveryRequest()
        request.CopyFrom(first)
        request.node.id = f"envoy-{node}"
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(DELTA_PATH)()
        await call.write(request.SerializeToString())
        await settle(call)
        return call

    async def settle(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> bytes:
        message = await call.read()
        assert isinstance(message, bytes)
        answer = DeltaDiscoveryResponse.FromString(message)
        assert [r.name for r in answer.resources] == [REVIEWS]
        ack = DeltaDiscoveryRequest(type_url=EDS, response_nonce=answer.nonce)
        await call.write(ack.SerializeToString())
        return message

    begin = time.monotonic()
    open_channels = [
        grpc.aio.insecure_channel(world.bridge.xds_address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(channels)
    ]
    try:
        calls = await asyncio.gather(*(connect(open_channels[i % channels], i) for i in range(count)))
        with pytest.raises(Refused) as refused:
            await (await world.client()).expect()

        world.write("reviews", "10.0.0.2")
        changes = set(await asyncio.gather(*(settle(call) for call in calls)))

        assert len(changes) == 1
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.text == "no more streams are let in; xds.limits.streams allows 1500"
        assert await world.metric("isthmus_xds_streams") == count
        assert time.monotonic() - begin < 30
    finally:
        await asyncio.gather(*(channel.close() for channel in open_channels))


async def test_a_long_message_is_refused_with_the_name_of_the_setting(world: World) -> None:
    """One that is much too long is not even read: its status says so, in gRPC's words."""
    await start(world, Limits(message_bytes=1 << 16))

    texts = []
    for length in (100_000, 1_000_000):
        client = await world.client()
        await client.send(b"\0" * length)
        with pytest.raises(Refused) as refused:
            await client.expect()
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        texts.append(refused.value.text)

    assert texts[0] == "the request has 100000 bytes; xds.limits.message_bytes allows 65536"
    assert "larger than max" in texts[1]
    good = await world.client()
    await good.converge()
    assert REVIEWS in good.bodies[CDS]


async def test_a_flood_is_slowed_while_others_are_served(world: World) -> None:
    await start(world, Limits(requests_per_second=5))
    flood, good = await world.client(node="flood"), await world.client(node="good")
    for i in range(200):
        await flood.subscribe(EDS, [f"name{i}"])

    await good.converge()

    assert REVIEWS in good.bodies[CDS]
    assert (await world.proxy("flood"))["types"]["EDS"]["subscribed"] < 60
    assert await world.metric("isthmus_xds_slowed_total") == 1


async def test_requests_before_the_first_listing_wait(world: World) -> None:
    """However many come: they are read when there is something to answer with."""
    await world.start()
    client = await world.client()
    for i in range(200):
        await client.subscribe(EDS, [f"name{i}"])
    await client.subscribe(CDS)

    world.write("reviews", "10.0.0.1")
    expected = {REVIEWS} | {f"name{i}" for i in range(200)}
    seen: set[str] = set()
    while seen < expected:
        answer = await client.expect()
        seen |= {*answer.removed, *answer.resources}
        await client.ack(answer)

    assert seen == expected


async def test_a_type_on_its_own_service(world: World) -> None:
    """Without ADS; it is in proxy-status as any other stream."""
    await start(world, Limits())
    client = await world.client(node="alone", path=path_of(TypeUrl.CLUSTER, delta=True))
    await client.subscribe("")
    answer = await client.expect(CDS)

    assert REVIEWS in answer.resources
    types = (await world.proxy("alone"))["types"]
    assert {n: t["state"] for n, t in types.items()} == {"CDS": "STALE"}


async def test_client_status_over_grpc(world: World) -> None:
    """Rule 51."""
    await start(world, Limits())
    client = await world.client(node="web-1")
    await client.converge()
    await client.barrier()
    async with grpc.aio.insecure_channel(world.bridge.xds_address) as channel:
        fetch = channel.unary_unary(
            CLIENT_STATUS + "FetchClientStatus",
            request_serializer=ClientStatusRequest.SerializeToString,
            response_deserializer=ClientStatusResponse.FromString,
        )
        matcher = {"node_matchers": [{"node_id": {"exact": "web-1"}}]}
        answer: ClientStatusResponse = await fetch(ParseDict(matcher, ClientStatusRequest()))

    (config,) = answer.config
    assert config.node.id == "web-1"
    found = {(g.type_url, g.name) for g in config.generic_xds_configs}
    assert {(CDS, REVIEWS), (EDS, REVIEWS)} <= found
