"""A Consul of several servers that lose their leader, each other, or what they knew, and the agent in between."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.bridge.config import ConsulRegistry
from tests.fault.served import NOTICED, RECOVERED, Served, served
from tests.servers.consul import Consul
from tests.servers.consul_cluster import ConsulCluster, Member
from tests.wait import eventually

HOST = "web.default.mesh"
_STOP, _CONTINUE = signal.SIGSTOP, signal.SIGCONT


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ConsulCluster]:
    cluster = await ConsulCluster.start(tmp_path / "cluster")
    yield cluster
    cluster.stop()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Member]:
    """A server that keeps what it knows, and is all of its cluster."""
    cluster = await ConsulCluster.start(tmp_path / "cluster", size=1)
    yield cluster.servers[0]
    cluster.stop()


def reading(consul: Consul, **options: Any) -> ConsulRegistry:
    settings: dict[str, Any] = {"name": "consul", "address": consul.address, "heartbeat": 0.5} | options
    return ConsulRegistry(**settings)


async def put(consul: Consul, n: int) -> bool:
    """Register web at 10.0.0.`n`; true, so that one may try until it can be done."""
    await consul.catalog_register("n1", "web", f"web-{n}", Address=f"10.0.0.{n}")
    return True


async def put_at(consul: Consul, n: int, port: int) -> None:
    """The same at a port of this machine, where somebody answers, behind the service's port 80."""
    await consul.catalog_register("n1", "web", f"web-{n}", Address="127.0.0.1", Port=port, Meta={"port": "80"})


def knows(world: Served, *numbers: int) -> bool:
    return set(world.healths("web")) == {f"10.0.0.{n}" for n in numbers}


async def until_known(world: Served, *numbers: int) -> None:
    await eventually(lambda: knows(world, *numbers), f"{numbers} are in the catalog", RECOVERED)


async def test_no_leader(cluster: ConsulCluster, tmp_path: Path) -> None:
    """Two of three are frozen. The third answers stale reads, so nothing stops; when its word is older than it may be, that is
    said, and when the others are back nothing has to be restarted. Requests through Envoy do not notice."""
    leader = await cluster.leader()
    here, other = await cluster.followers()
    async with served(tmp_path, reading(here, max_stale=3.0)) as world:
        one, two = await world.upstream("one"), await world.upstream("two")
        await put_at(leader, 1, one.port)
        await put_at(leader, 2, two.port)
        await eventually(lambda: world.ports("web") == {one.port, two.port}, "both are known", NOTICED)
        await world.start_envoy()
        async with world.load(HOST) as load:
            with leader.outage(), other.outage():
                alone_since = time.time()
                error = await world.until_stale("max_stale is 3 s")
                assert here.address in error
                assert world.status.stale_since is not None
                assert world.status.stale_since < alone_since + 3, "stale since a leader was last known"
                assert world.ports("web") == {one.port, two.port}
                load.recent()
                await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve")
            await cluster.ready()
            await world.until_current()
            assert world.bridge.hub.holds == ()
            three = await world.upstream("three")
            await put_at(await cluster.leader(), 3, three.port)
            await eventually(lambda: "three" in load.answers, "a new instance serves", RECOVERED)


async def test_a_start_without_a_leader(cluster: ConsulCluster, tmp_path: Path) -> None:
    """A bridge that begins then is told everything by a server that has it; one that wants a leader's word says what is wrong."""
    leader = await cluster.leader()
    here, other = await cluster.followers()
    await put(leader, 1)

    async def copied() -> bool:
        return bool(await here.get("/v1/health/service/web?stale"))

    await eventually(copied, "the follower has it too")
    with leader.outage(), other.outage():
        async with served(tmp_path / "stale", reading(here)) as world:
            await until_known(world, 1)
            assert world.status.synced
        async with served(tmp_path / "strict", reading(here, consistency="default")) as world:
            await eventually(lambda: "No cluster leader" in world.status.error, "Consul's words", NOTICED)
            assert not world.status.synced
            assert not world.bridge.hub.ready
            # The first one's knowledge is another's: this one has nothing, and shows nobody an empty world.
            assert world.bridge.server.snapshot.generation == 0
            leader.send_signal(_CONTINUE)
            other.send_signal(_CONTINUE)
            await until_known(world, 1)


async def test_another_leader(cluster: ConsulCluster, tmp_path: Path) -> None:
    """The leader dies for good; the others elect one, and changes go on to arrive. When it is back, nobody was lost."""
    first = await cluster.leader()
    here, _ = await cluster.followers()
    await put(first, 1)
    async with served(tmp_path, reading(here)) as world:
        await until_known(world, 1)
        first.kill()

        async def elected() -> bool:
            return await cluster.leader() is not first

        await eventually(elected, "another leader", 60, every=0.1)
        await eventually(lambda: put(here, 2), "it takes changes", 60)
        await until_known(world, 1, 2)
        first.start()
        await cluster.ready()
        await put(first, 3)
        await until_known(world, 1, 2, 3)
        await world.until_current()
        assert world.bridge.hub.holds == ()


async def test_an_agent_that_is_cut_off_from_its_servers(cluster: ConsulCluster, tmp_path: Path) -> None:
    """It answers, and has nothing to say: what it said before stays."""
    agent = await cluster.add_agent("agent")
    await put(await cluster.leader(), 1)
    async with served(tmp_path, reading(agent)) as world:
        await until_known(world, 1)
        for server in cluster.servers:
            server.send_signal(_STOP)
        try:
            await world.until_stale(agent.address)
            assert knows(world, 1)
        finally:
            for server in cluster.servers:
                server.send_signal(_CONTINUE)
        await cluster.ready()
        await world.until_current()
        await put(await cluster.leader(), 2)
        await until_known(world, 1, 2)
        assert world.bridge.hub.holds == ()


async def test_a_restart_with_all_it_knew(alone: Member, tmp_path: Path) -> None:
    """Killed, and there again. It may say that it knows nothing until it has read its own log: nobody falls for that."""
    await put(alone, 1)
    async with served(tmp_path, reading(alone)) as world:
        await until_known(world, 1)
        alone.kill()
        await world.until_stale(alone.address)
        assert knows(world, 1)
        generation = world.bridge.server.snapshot.generation
        alone.start()
        await world.until_current()
        await eventually(lambda: not world.bridge.hub.holds, "what it had is its own again", NOTICED)
        assert knows(world, 1)
        assert world.bridge.server.snapshot.generation == generation, "no Envoy was told anything meanwhile"
        await eventually(lambda: put(alone, 2), "it has a leader", 30)
        await until_known(world, 1, 2)
        assert world.bridge.hub.holds == ()


async def test_a_snapshot_of_earlier_is_restored(alone: Member, tmp_path: Path) -> None:
    """What it lacks was not deregistered: it is held, and is the registry's again when it registers again."""
    await put(alone, 1)
    backup = await alone.request("GET", "/v1/snapshot")
    async with served(tmp_path, reading(alone)) as world:
        await put(alone, 2)
        await put(alone, 3)
        await until_known(world, 1, 2, 3)
        await alone.request("PUT", "/v1/snapshot", backup)
        await eventually(lambda: world.held == {"10.0.0.2", "10.0.0.3"}, "what the snapshot lacks is held", NOTICED)
        assert knows(world, 1, 2, 3)
        assert all("went back" in hold.reason for hold in world.bridge.hub.holds)
        await put(alone, 2)
        await eventually(lambda: world.held == {"10.0.0.3"}, "one is registered again", NOTICED)
        await alone.catalog_deregister("n1", "web-2")
        await until_known(world, 1, 3)


async def test_too_many_requests(alone: Member, tmp_path: Path) -> None:
    """The server refuses most of what it is asked: that is Consul's error, and over when the limit is lifted."""
    await put(alone, 1)
    async with served(tmp_path, reading(alone)) as world:
        await until_known(world, 1)
        limits = {"mode": "enforcing", "read_rate": 0.1, "write_rate": 1_000}
        await alone.reload({"limits": {"request_limits": limits}})
        error = await world.until_stale("429")
        assert "rate limit" in error
        assert knows(world, 1)
        await alone.reload({"limits": {"request_limits": {"mode": "disabled"}}})
        await world.until_current()
        await put(alone, 2)
        await until_known(world, 1, 2)
