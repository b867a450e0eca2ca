"""From a real Consul to requests through a real Envoy."""

from __future__ import annotations

import asyncio
from functools import partial

import aiohttp
import pytest

from tests.e2e.conftest import Mesh
from tests.peers import ENVOYS
from tests.servers.upstream import Load, Upstream, constant_load
from tests.wait import eventually

HOST = "reviews.default.mesh"
CLUSTER = "outbound|{}||reviews.default.mesh"


async def test_a_registration_is_served(mesh: Mesh) -> None:
    """By the mesh's name, by Consul's names, with and without the port, and by the short name."""
    await mesh.start_envoy()
    assert (await mesh.get(HOST))[0] == 502

    one = await mesh.upstream("one")
    await mesh.consul.register("reviews", "one", port=one.port, meta={"port": "9080"})
    await mesh.routed(HOST)

    for host in (HOST, "reviews", "reviews.default", "reviews.service.consul", "reviews.service.dc1.consul"):
        for authority in (host, f"{host}:9080", host.upper()):
            assert await mesh.get(authority) == (200, "one"), authority
    assert not await mesh.envoys[0].rejected()


async def test_a_critical_check_ends_the_traffic_to_its_instance_alone(mesh: Mesh) -> None:
    one, two = await mesh.upstream("one"), await mesh.upstream("two")
    for upstream in (one, two):
        await mesh.consul.register(
            "reviews", upstream.name, port=upstream.port, ttl_status="passing", meta={"port": "80"}
        )
    await mesh.start_envoy()
    await mesh.routed(HOST)

    async with constant_load(mesh.outbound, HOST) as load:
        await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve")
        await mesh.consul.set_check("one", "critical")
        await _left_alone(load, "one")
        quiet = one.requests
        load.recent()
        await eventually(lambda: load.answers["two"] > 50, "two goes on")
        assert one.requests == quiet

        await mesh.consul.set_check("one", "passing")
        await eventually(lambda: load.answers["one"] > 5, "one is back")
    assert load.failures == []


@pytest.mark.parametrize("version", [ENVOYS[0], ENVOYS[-1]])
async def test_an_acknowledged_change_of_health_is_in_effect(mesh: Mesh, version: str) -> None:
    """Envoy would merge such changes for a second, after having acknowledged them (`update_merge_window`)."""
    one, two = await mesh.upstream("one"), await mesh.upstream("two")
    for upstream in (one, two):
        await mesh.consul.register(
            "reviews", upstream.name, port=upstream.port, ttl_status="passing", meta={"port": "80"}
        )
    await mesh.start_envoy(version)
    await mesh.routed(HOST)

    async with constant_load(mesh.outbound, HOST) as load:
        for _ in range(3):
            for status in ("critical", "passing"):
                generation = mesh.bridge.server.snapshot.generation
                await mesh.consul.set_check("one", status)
                await eventually(partial(mesh.followed, generation), "Envoy has acknowledged it")
                if status == "passing":
                    await eventually(partial(_answers, load, "one"), "it serves again")
                    continue
                # What was under way at the acknowledgement may still come in; a tenth of a second later nothing does.
                load.recent()
                await eventually(partial(_answers, load, "two", 20), "the other one goes on")
                assert load.answers["one"] <= 2
    assert load.failures == []


async def test_a_critical_check_of_the_only_instance_means_no_request_there(mesh: Mesh) -> None:
    """No panic routing: the registry's word about health is final."""
    one = await mesh.upstream("one")
    await mesh.consul.register("reviews", "one", port=one.port, ttl_status="passing")
    await mesh.start_envoy()
    await mesh.routed(HOST)

    await mesh.consul.set_check("one", "critical")

    async def unavailable() -> bool:
        return (await mesh.get(HOST))[0] == 503

    await eventually(unavailable, "no healthy upstream is left")
    before = one.requests
    assert (await mesh.get(HOST))[0] == 503
    assert one.requests == before


async def test_maintenance_drains(mesh: Mesh) -> None:
    one, two = await mesh.upstream("one"), await mesh.upstream("two")
    for upstream in (one, two):
        await mesh.consul.register("reviews", upstream.name, port=upstream.port, meta={"port": "80"})
    envoy = await mesh.start_envoy()
    await mesh.routed(HOST)

    async with constant_load(mesh.outbound, HOST) as load:
        await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve")
        await mesh.consul.maintenance("one", on=True)

        async def draining() -> bool:
            return (await envoy.endpoints(CLUSTER.format(80))).get(f"127.0.0.1:{one.port}") == "DRAINING"

        await eventually(draining, "Envoy drains it")
        await _left_alone(load, "one")
        await mesh.consul.maintenance("one", on=False)
        await eventually(lambda: load.answers["one"] > 5, "it is back")
    assert load.failures == []


async def test_deregistering_under_load_fails_no_request(mesh: Mesh) -> None:
    """The instance is stopped as soon as Envoy has let it go. (Stopped in the same moment in which it deregisters, it may close a
    connection on which a request has just been sent: no proxy may repeat that unasked.)"""
    ups = [await mesh.upstream(f"up{n}") for n in range(4)]
    for upstream in ups:
        await mesh.consul.register("reviews", upstream.name, port=upstream.port, meta={"port": "80"})
    envoy = await mesh.start_envoy()
    await mesh.routed(HOST)

    async def let_go(upstream: Upstream) -> bool:
        known = await envoy.endpoints(CLUSTER.format(80))
        return known.get(f"127.0.0.1:{upstream.port}", "DRAINING") == "DRAINING"

    async with constant_load(mesh.outbound, HOST, streams=4) as load:
        for upstream in ups[1:]:
            await eventually(partial(_answers, load, upstream.name), "it serves")
            await mesh.consul.deregister(upstream.name)
            await eventually(partial(let_go, upstream), "Envoy has let it go")
            await upstream.stop()
            load.recent()
        await eventually(lambda: load.answers["up0"] > 50, "the last one serves alone")
    assert load.failures == []


async def test_weights_are_shares(mesh: Mesh) -> None:
    one, three = await mesh.upstream("one"), await mesh.upstream("three")
    await mesh.consul.register("reviews", "one", port=one.port, meta={"port": "80"}, weights=(1, 1))
    await mesh.consul.register("reviews", "three", port=three.port, meta={"port": "80"}, weights=(3, 1))
    await mesh.start_envoy()
    await mesh.routed(HOST)

    answers = [(await mesh.get(HOST))[1] for _ in range(200)]

    assert 0.20 <= answers.count("one") / len(answers) <= 0.30


async def test_what_consul_forgets_during_an_outage_stays_in_envoy(mesh: Mesh) -> None:
    """Frozen, killed, and restarted empty-handed: requests go on, readiness stays, staleness is told, and recovery needs no
    restart and no full push."""
    one, two = await mesh.upstream("one"), await mesh.upstream("two")
    for upstream in (one, two):
        await mesh.consul.register("reviews", upstream.name, port=upstream.port, meta={"port": "80"})
    envoy = await mesh.start_envoy()
    await mesh.routed(HOST)
    await eventually(mesh.synced, "Envoy has all")
    status = mesh.bridge.hub.statuses["consul"]
    generation = mesh.bridge.server.snapshot.generation
    pushes = await envoy.stats("cluster_manager.cds.update_success")

    async def ready() -> bool:
        return (await _readyz(mesh))[0] == 200

    async with constant_load(mesh.outbound, HOST) as load:
        with mesh.consul.outage():
            await eventually(lambda: status.stale_since is not None, "the freeze is noticed", 15)
            assert await ready()
            assert (await _readyz(mesh))[1]["registries"]["consul"]["stale_since"] is not None
        await eventually(lambda: status.stale_since is None, "thawed, it is current again", 30)

        mesh.consul.kill()
        await eventually(lambda: status.stale_since is not None, "the death is noticed", 15)
        assert await ready()
        mesh.consul.start()
        await mesh.consul.ready()
        await eventually(lambda: status.stale_since is None, "restarted, it is current again", 40)
        held = {h.instance.provenance.get("service_id", h.instance.id) for h in mesh.bridge.hub.holds}
        assert {"one", "two"} <= held
        assert set(await envoy.endpoints(CLUSTER.format(80))) == {f"127.0.0.1:{u.port}" for u in (one, two)}

        for upstream in (one, two):
            await mesh.consul.register("reviews", upstream.name, port=upstream.port, meta={"port": "80"})
        await eventually(lambda: not mesh.bridge.hub.holds, "what is registered again is held no more", 15)
        load.recent()
        await eventually(lambda: load.answers["one"] > 20 and load.answers["two"] > 20, "both serve")
    assert load.failures == []
    assert await envoy.stats("cluster_manager.cds.update_success") == pushes, "no cluster was pushed again"
    assert mesh.bridge.server.snapshot.generation - generation <= 4, (
        "no more than the instances' own changes were pushed"
    )


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
async def test_a_restarted_bridge_sends_nothing_again(mesh: Mesh, delta: bool) -> None:
    """Delta and state of the world: a proxy that comes back with what it has is sent nothing. Rule 20."""
    ups = [await mesh.upstream(f"up{n}") for n in range(3)]
    for n, upstream in enumerate(ups):
        await mesh.consul.register(f"svc{n}", upstream.name, port=upstream.port, meta={"port": "80"})
    await mesh.consul.register("db", "db", port=ups[0].port, meta={"port": "5432", "protocol": "tcp"})
    await eventually(lambda: len(mesh.bridge.published.catalog.services) == 4, "all are known")
    envoy = await mesh.start_envoy(delta=delta)
    await mesh.routed("svc0.default.mesh")
    await eventually(mesh.synced, "Envoy has all")

    async with constant_load(mesh.outbound, "svc1.default.mesh") as load:
        before = await envoy.stats("(cluster_manager.cds|listener_manager.lds|cluster.outbound_.*).update_success")
        for _ in range(2):
            await mesh.restart_bridge()
            await eventually(lambda: len(mesh.bridge.server.proxies()) == 1, "Envoy is back", 20)
            await eventually(
                lambda: {t.type for t in mesh.bridge.server.proxies()[0].types} >= {"CDS", "EDS", "LDS", "RDS"},
                "all subscribed",
            )
            load.recent()
            await eventually(partial(_answers, load, "up1", 50), "requests go on")
            assert _resources_sent(mesh) == 0
        after = await envoy.stats("(cluster_manager.cds|listener_manager.lds|cluster.outbound_.*).update_success")
    assert after == before
    assert load.failures == []

    await mesh.consul.deregister("up2")
    await eventually(lambda: _resources_sent(mesh) > 0, "a change is pushed as ever")


async def test_tcp_has_an_address_of_its_own_that_never_changes(mesh: Mesh) -> None:
    one = await mesh.upstream("one")
    await mesh.consul.register("db", "one", port=one.port, meta={"protocol": "tcp", "port": "15432"})
    await mesh.start_envoy()
    await eventually(lambda: mesh.bridge.published.virtual_ips, "it has an address")
    address = next(iter(mesh.bridge.published.virtual_ips.values()))

    async def answered() -> bool:
        reader, writer = await asyncio.open_connection(address, 15432)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.endswith(b"one")

    await eventually(answered, "the connection is carried to the instance")
    await mesh.restart_bridge()
    await eventually(lambda: mesh.bridge.published.virtual_ips, "it has an address")
    assert next(iter(mesh.bridge.published.virtual_ips.values())) == address


async def _left_alone(load: Load, name: str) -> None:
    """Wait until a tenth of a second of load brings no answer of one instance."""
    load.recent()

    def others_only() -> bool:
        answers = load.recent()
        return answers.total() > 5 and name not in answers

    await eventually(others_only, f"{name} gets nothing any more", every=0.1)


def _answers(load: Load, name: str, more_than: int = 5) -> bool:
    return load.answers[name] > more_than


def _resources_sent(mesh: Mesh) -> int:
    metrics = mesh.bridge.server.metrics
    return int(sum(sample.value for c in metrics.resources.values() for f in c.collect() for sample in f.samples[:1]))


async def _readyz(mesh: Mesh) -> tuple[int, dict[str, dict[str, dict[str, object]]]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{mesh.bridge.http_address}/readyz") as answer:
        return answer.status, await answer.json()
