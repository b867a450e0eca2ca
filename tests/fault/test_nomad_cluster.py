"""A Nomad of several servers and a client that lose each other: tasks go on, and so do requests to them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.bridge.config import NomadRegistry
from isthmus.registry.model import Health
from tests.fault.served import RECOVERED, Served, served
from tests.servers.nomad import Nomad, mk_job, mk_service
from tests.servers.nomad_cluster import NomadCluster
from tests.wait import eventually


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NomadCluster]:
    cluster = await NomadCluster.start(tmp_path / "cluster")
    yield cluster
    cluster.stop()


def reading(nomad: Nomad) -> NomadRegistry:
    return NomadRegistry(name="nomad", address=nomad.address, heartbeat=0.5, check_interval=0.5)


def healths(world: Served, service: str = "web") -> list[Health]:
    found = [s for key, s in world.bridge.published.catalog.services.items() if key.name == service]
    return [i.health for s in found for i in s.instances]


async def until_healthy(world: Served, count: int, service: str = "web") -> None:
    expected = [Health.HEALTHY] * count
    await eventually(lambda: healths(world, service) == expected, f"{count} of {service} are healthy", RECOVERED)


async def test_another_leader_and_none(cluster: NomadCluster, tmp_path: Path) -> None:
    """The leader dies and comes back, then both servers beside the one that is asked are frozen. Not one request fails."""
    leader = await cluster.leader()
    here, other = await cluster.followers()
    await leader.run(mk_job("web", mk_service("web", check=True), count=2))
    async with served(tmp_path, reading(here)) as world:
        await until_healthy(world, 2)
        await world.start_envoy()
        async with world.load("web.default.mesh") as load:
            before = ports(world)
            leader.kill()
            await eventually(lambda: run(here, "api"), "the others take a job", 60, every=0.2)
            await world.until_current()
            await until_healthy(world, 1, "api")
            assert ports(world) == before
            leader.start()
            await cluster.ready()

            with leader.outage(), other.outage():
                await world.until_stale(here.address)
                load.recent()
                await eventually(lambda: load.answers.total() > 20, "the tasks serve")
                assert ports(world) == before
            await cluster.ready()
            await world.until_current()
            await until_healthy(world, 2)
            await eventually(lambda: run(here, "new"), "a job is taken", 60, every=0.2)
            await until_healthy(world, 1, "new")
            assert ports(world) == before
            assert world.bridge.hub.holds == ()


async def test_a_node_that_is_disconnected(cluster: NomadCluster, tmp_path: Path) -> None:
    """Its tasks go on, where the job says that they may: its instances count for less until it is back, and are not lost."""
    server = cluster.servers[0]
    disconnect = {"LostAfter": 600_000_000_000, "Replace": False, "Reconcile": "keep_original"}
    await server.run(mk_job("web", mk_service("web"), count=2, group={"Disconnect": disconnect}))
    async with served(tmp_path, reading(server)) as world:
        await until_healthy(world, 2)
        before = ports(world)
        cluster.client.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: set(healths(world)) == {Health.DEGRADED}, "it is disconnected", 90)
            assert ports(world) == before
            assert world.status.stale_since is None
        finally:
            cluster.client.send_signal(signal.SIGCONT)
        await until_healthy(world, 2)
        assert ports(world) == before


async def run(nomad: Nomad, name: str) -> bool:
    await nomad.run(mk_job(name, mk_service(name)))
    return True


def ports(world: Served) -> set[int]:
    found = [s for key, s in world.bridge.published.catalog.services.items() if key.name == "web"]
    return {p for s in found for i in s.instances for p in i.ports.values()}
