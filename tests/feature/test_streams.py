"""What proxies are sent, from a change of a file to the message on a real gRPC stream."""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from tests.feature.client import CDS, EDS, LDS, RDS, Refused
from tests.feature.conftest import World
from tests.wait import eventually

REVIEWS = "outbound|80||reviews.default.mesh"

both = pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])


def published_after(world: World, generation: int) -> bool:
    return world.bridge.server.snapshot.generation > generation


@both
async def test_a_changed_instance_costs_one_endpoint_resource(world: World, delta: bool) -> None:
    """Whatever the number of other services."""
    for i in range(30):
        world.write(f"other{i}", f"10.1.0.{i}")
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client(delta=delta)
    await client.converge()
    assert len(client.bodies[CDS]) == 31

    world.write("reviews", "10.0.0.1", "10.0.0.2")
    answer = await client.take(EDS)
    world.write("other7", "10.1.0.77")
    following = await client.take(EDS)

    assert set(answer.resources) == {REVIEWS}
    assert answer.endpoints(REVIEWS) == {"10.0.0.1:80", "10.0.0.2:80"}
    assert set(following.resources) == {"outbound|80||other7.default.mesh"}


@both
async def test_services_come_and_go(world: World, delta: bool) -> None:
    world.write("details", "10.0.0.9")
    await world.started()
    client = await world.client(delta=delta)
    await client.converge()

    world.write("reviews", "10.0.0.1")
    assert REVIEWS in (await client.take(CDS)).resources
    await client.subscribe(EDS, [REVIEWS])
    answers = {a.type_url: a for a in [await client.expect(), await client.expect()]}
    for answer in answers.values():
        await client.ack(answer)
    assert set(answers) == {EDS, RDS}
    assert answers[EDS].endpoints(REVIEWS) == {"10.0.0.1:80"}

    (world.folder / "reviews.yaml").unlink()
    await eventually(lambda: len(world.bridge.published.catalog.services) == 1, "the service is gone")
    while REVIEWS in client.bodies[CDS]:
        await client.ack(await client.expect())


@both
async def test_a_rejected_push_is_shown_and_not_repeated(world: World, delta: bool) -> None:
    """Rule 11."""
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client(delta=delta)
    await client.subscribe(CDS)
    await client.nack(await client.expect(CDS), "no such cipher")

    async def rejected() -> bool:
        return bool((await world.proxy())["types"]["CDS"]["state"] == "REJECTED")

    await eventually(rejected, "proxy-status says so")
    status = (await world.proxy())["types"]["CDS"]
    assert status["error"] == "no such cipher"
    assert status["acked"] == ""
    assert await world.metric("isthmus_xds_nacks_total", type="CDS") == 1

    # Other types go on, and the next message is theirs.
    await client.subscribe(LDS)
    await client.take(LDS)
    world.write("details", "10.0.0.2")
    answer = await client.take(CDS)
    assert "outbound|80||details.default.mesh" in answer.resources
    assert REVIEWS not in answer.resources
    assert await rejected()
    world.write("reviews", "10.0.0.1", port="grpc")
    assert REVIEWS in (await client.take(CDS)).resources

    async def synced() -> bool:
        return bool((await world.proxy())["types"]["CDS"]["state"] == "SYNCED")

    await eventually(synced, "an accepted push clears the rejection")


async def test_a_client_that_comes_back_is_sent_nothing_that_it_has(world: World) -> None:
    """Also when the bridge was restarted in between: versions are content."""
    for i in range(5):
        world.write(f"s{i}", f"10.0.0.{i}")
    await world.started()
    client = await world.client()
    await client.converge()
    await world.bridge.stop()
    world.write("s3", "10.0.0.33")
    await world.started()

    again = await world.client()
    await again.converge(client.held)

    sent = [(a.type_url, set(a.resources), a.removed) for a in again.answers if a.resources or a.removed]
    assert sent[:-1] == [(EDS, {"outbound|80||s3.default.mesh"}, ())]
    assert sent[-1][2] == ("1",), "the last one answers the barrier"


@both
async def test_streams_that_come_before_the_first_listing_are_answered_after_it(world: World, delta: bool) -> None:
    """Until then they hear nothing: an empty answer would take from an Envoy all that it has."""
    await world.start()
    client = await world.client(delta=delta)
    await client.subscribe(CDS)

    async def connected() -> bool:
        return len((await world.get("/debug/proxies"))[1]) == 1

    await eventually(connected, "the stream is open")
    assert (await world.get("/readyz"))[0] == 503

    world.write("reviews", "10.0.0.1")
    answer = await client.take(CDS)

    assert set(answer.resources) == {REVIEWS}
    assert (await world.get("/readyz"))[0] == 200


async def test_nothing_is_answered_while_no_registry_was_ever_read(world: World) -> None:
    """Not even when `sync_timeout` is over, and then at once when one of them turns up. Rule 47."""
    other = world.directory / "other"
    registries = (*world.config.registries, world.registry("other", other))
    world.configure(registries=registries, sync_timeout=0.0)
    await world.start()
    client = await world.client()
    await client.subscribe(CDS)

    async def failed() -> bool:
        _, state = await world.get("/readyz")
        return all(r["error"] for r in state["registries"].values())

    await eventually(failed, "both have been tried")
    status, state = await world.get("/readyz")
    assert (status, state["ready"], state["waiting_for"]) == (503, False, ["local", "other"])
    assert "No such file" in state["registries"]["local"]["error"]

    world.write("reviews", "10.0.0.1", folder=other)
    answer = await client.take(CDS)

    assert set(answer.resources) == {REVIEWS}
    status, state = await world.get("/readyz")
    assert (status, state["ready"], state["waiting_for"]) == (200, True, ["local"])


async def test_a_registry_that_is_down_holds_the_others_up_for_its_timeout(world: World) -> None:
    world.write("reviews", "10.0.0.1", folder=world.directory / "other")
    world.configure(registries=(*world.config.registries, world.registry("other")), sync_timeout=1.0)
    await world.start()
    client = await world.client()
    await client.subscribe(CDS)

    async def other_is_synced() -> bool:
        return bool((await world.get("/readyz"))[1]["registries"]["other"]["synced"])

    await eventually(other_is_synced, "the other one was read")
    assert (await world.get("/readyz"))[1]["ready"] is False

    assert set((await client.take(CDS)).resources) == {REVIEWS}


@both
async def test_who_does_not_acknowledge_gets_the_newest_state_alone(world: World, delta: bool) -> None:
    """States in between are never sent, and nothing piles up. Rule 42."""
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client(delta=delta)
    await client.converge()
    world.write("reviews", "10.0.0.2")
    held_back = await client.expect(EDS)

    for i in range(3, 8):
        generation = world.bridge.server.snapshot.generation
        world.write("reviews", f"10.0.0.{i}")
        await eventually(partial(published_after, world, generation), "it is published")
    assert (await world.proxy())["types"]["EDS"]["state"] == "STALE"
    await client.ack(held_back)

    assert (await client.take(EDS)).endpoints(REVIEWS) == {"10.0.0.7:80"}


async def test_a_tcp_service_keeps_its_address(world: World) -> None:
    """It is in the state directory, so that a restart gives the same one whatever came before it."""

    async def listener_address() -> str:
        client = await world.client()
        await client.converge()
        listeners = [Listener.FromString(b) for b in client.bodies[LDS].values()]
        (tcp,) = (x for x in listeners if x.address.socket_address.port_value == 5432)
        return tcp.address.socket_address.address

    world.write("db", "10.0.0.1", port="tcp", number=5432)
    await world.started()
    before = await listener_address()
    assert before.startswith("127.")
    assert (await world.get("/debug/catalog"))[1]["virtual_ips"] == {"db.default": before}
    await world.bridge.stop()
    await world.started()

    assert await listener_address() == before


async def test_the_time_from_a_change_to_its_acknowledgement_is_measured(world: World) -> None:
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client()
    await client.converge()
    assert (await world.proxy())["types"]["EDS"]["lag_ms"] is None

    world.write("reviews", "10.0.0.2")
    await client.take(EDS)

    async def measured() -> bool:
        return await world.metric("isthmus_change_to_ack_seconds_count", type="EDS") == 1

    await eventually(measured, "it is counted")
    assert 0 < (await world.proxy())["types"]["EDS"]["lag_ms"] < 5_000


class TestRefusals:
    async def test_a_path_that_is_not_served(self, world: World) -> None:
        await world.started()
        path = "/envoy.api.v2.ClusterDiscoveryService/StreamClusters"
        client = await world.client(path=path)

        with pytest.raises(Refused) as refused:
            await client.expect()

        assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
        assert path in refused.value.text
        assert "ADS" in refused.value.text

    @both
    async def test_a_node_without_an_id(self, world: World, delta: bool) -> None:
        await world.started()
        client = await world.client(node="", delta=delta)
        await client.subscribe(CDS)

        with pytest.raises(Refused) as refused:
            await client.expect()

        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "node.id" in refused.value.text

    @both
    async def test_bytes_that_are_no_request(self, world: World, delta: bool) -> None:
        await world.started()
        client = await world.client(delta=delta)
        await client.send(b"\xff\xff\xff")

        with pytest.raises(Refused) as refused:
            await client.expect()

        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT

    async def test_others_do_not_notice(self, world: World) -> None:
        """A client that breaks the protocol is one stream less."""
        world.write("reviews", "10.0.0.1")
        await world.started()
        good, bad = await world.client(), await world.client(node="bad")
        await good.converge()
        await bad.subscribe(CDS)
        await bad.expect(CDS)
        await bad.send(DeltaDiscoveryRequest().SerializeToString())
        with pytest.raises(Refused):
            await bad.expect()

        world.write("reviews", "10.0.0.2")

        assert (await good.take(EDS)).endpoints(REVIEWS) == {"10.0.0.2:80"}


async def test_stopping_tells_clients_to_come_back(world: World) -> None:
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client()
    await client.converge()

    await world.bridge.stop()

    with pytest.raises(Refused) as refused:
        await client.expect()
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
