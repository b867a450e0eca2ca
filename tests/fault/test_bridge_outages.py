"""The bridge itself is killed, or all of them, or starts while its registry is away: Envoy goes on with what is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.bridge.config import ConsulRegistry
from tests.fault.served import NOTICED, RECOVERED, served
from tests.servers.bridge import BridgeProcess
from tests.servers.consul_cluster import ConsulCluster, Member
from tests.servers.envoy import Envoy
from tests.servers.process import free_port
from tests.servers.relay import Relay
from tests.servers.upstream import Upstream, constant_load, get
from tests.wait import eventually

HOST = "web.default.mesh"
SENT = "(cluster_manager.cds|listener_manager.lds|cluster.outbound_.*).update_success"
"""Envoy's counters of configuration that it was sent."""


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[Member]:
    """A server that still knows everything when it was killed."""
    cluster = await ConsulCluster.start(tmp_path / "consul", size=1)
    yield cluster.servers[0]
    cluster.stop()


async def put(consul: Member, upstream: Upstream) -> None:
    await consul.catalog_register(
        "n1", "web", upstream.name, Address="127.0.0.1", Port=upstream.port, Meta={"port": "80"}
    )


class Replicas:
    """Bridges of one registry, and an Envoy that reaches one of them at a time, through a relay."""

    def __init__(self, directory: Path, consul: Member, stack: AsyncExitStack, count: int) -> None:
        self.consul = consul
        self.outbound = free_port()
        registry = {"name": "consul", "type": "consul", "address": consul.address, "heartbeat": 0.5}
        self.bridges = [BridgeProcess(directory / f"bridge-{n}", [registry], self.outbound) for n in range(count)]
        self.relay = Relay(self._port(0))
        self._directory = directory
        self._stack = stack

    async def start(self) -> None:
        for bridge in self.bridges:
            bridge.start()
            self._stack.callback(bridge.stop)
        for bridge in self.bridges:
            await bridge.ready()
        await self.relay.start()
        self._stack.push_async_callback(self.relay.stop)
        self.envoy = Envoy(self._directory, f"127.0.0.1:{self.relay.port}")
        self.envoy.start()
        self._stack.callback(self.envoy.stop)
        await self.envoy.ready()

    async def upstream(self, name: str) -> Upstream:
        upstream = Upstream(name)
        await upstream.start()
        self._stack.push_async_callback(upstream.stop)
        await put(self.consul, upstream)
        return upstream

    async def lead_to(self, n: int) -> None:
        """What Envoy reaches from now on, as when an address moves."""
        self.relay.redirect(self._port(n))
        await self.relay.drop()

    async def served(self) -> None:
        async def answers() -> bool:
            return (await get(self.outbound, HOST))[0] == 200

        await eventually(answers, "it is served through Envoy", NOTICED)

    async def connected(self) -> bool:
        return (await self.envoy.stats("control_plane.connected_state")).get("control_plane.connected_state") == 1

    async def cut_off(self) -> bool:
        return not await self.connected()

    def _port(self, n: int) -> int:
        return int(self.bridges[n].xds.rpartition(":")[2])


async def test_the_bridge_is_killed(consul: Member, tmp_path: Path) -> None:
    """Envoy keeps its configuration; the next bridge sends what changed meanwhile, and nothing else."""
    async with AsyncExitStack() as stack:
        world = Replicas(tmp_path, consul, stack, 1)
        (bridge,) = world.bridges
        for name in ("one", "two"):
            await world.upstream(name)
        await world.start()
        await world.served()
        async with constant_load(world.outbound, HOST, 1) as load:
            await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve", NOTICED)
            before = await world.envoy.stats(SENT)
            bridge.kill()
            await eventually(world.cut_off, "Envoy has no bridge", NOTICED)
            load.recent()
            await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve", NOTICED)

            bridge.start()
            await bridge.ready()
            await eventually(world.connected, "Envoy is back", RECOVERED, every=0.1)
            assert await world.envoy.stats(SENT) == before, "nothing had changed"

            bridge.kill()
            await world.upstream("three")
            await consul.catalog_deregister("n1", "two")
            bridge.start()
            await eventually(lambda: load.answers["three"], "what came meanwhile serves", RECOVERED)
            await eventually(
                lambda: "two" not in load.recent(), "what left meanwhile gets nothing", RECOVERED, every=0.3
            )
        assert load.failures == []


async def test_all_replicas_are_gone(consul: Member, tmp_path: Path) -> None:
    """One after the other. From one to the next nothing is sent again, and without any, Envoy serves what it has."""
    async with AsyncExitStack() as stack:
        world = Replicas(tmp_path, consul, stack, 2)
        first, second = world.bridges
        await world.upstream("one")
        await world.start()
        await world.served()
        async with constant_load(world.outbound, HOST, 1) as load:
            before = await world.envoy.stats(SENT)
            first.kill()
            await world.lead_to(1)
            await eventually(world.connected, "Envoy has found the other one", RECOVERED, every=0.1)
            assert await world.envoy.stats(SENT) == before, "replicas give equal things equal versions"
            second.kill()
            await eventually(world.cut_off, "Envoy has no bridge", NOTICED)
            await world.upstream("two")
            load.recent()
            await eventually(lambda: load.answers["one"] > 50, "it serves what it has", NOTICED)
            assert not load.answers["two"]
            first.start()
            await world.lead_to(0)
            await eventually(lambda: load.answers["two"], "what came meanwhile serves", RECOVERED)
        assert load.failures == []


async def test_a_start_while_the_registry_is_away(consul: Member, tmp_path: Path) -> None:
    """What an earlier bridge knew is served, also to an Envoy that begins only now, and its age is told."""
    registry = ConsulRegistry(name="consul", address=consul.address, heartbeat=0.5)
    async with served(tmp_path, registry, sync_timeout=1) as world:
        one = await world.upstream("one")
        await put(consul, one)
        await eventually(lambda: world.ports("web") == {one.port}, "it is known", NOTICED)
        await world.stop()
        saved_by = world.status.last_success
        consul.kill()

        await world.start()
        await eventually(lambda: world.ports("web") == {one.port}, "what was known is served", NOTICED)
        error = await world.until_stale()
        assert consul.address in error
        assert not world.status.synced
        assert world.status.stale_since is not None
        assert saved_by is not None
        assert abs(world.status.stale_since - saved_by) < 10, "as old as what was saved"
        await world.start_envoy()
        async with world.load(HOST) as load:
            consul.start()
            await world.until_current()
            two = await world.upstream("two")
            await eventually(lambda: _done(put(consul, two)), "Consul takes registrations", NOTICED, every=0.2)
            await eventually(lambda: load.answers["two"], "a change arrives", RECOVERED)
            assert world.bridge.hub.holds == ()


def _nothing(_: bytes) -> bytes:
    return b""


def _half(saved: bytes) -> bytes:
    return saved[: len(saved) // 2]


def _one_bit(saved: bytes) -> bytes:
    return saved[:-20] + bytes([saved[-20] ^ 1]) + saved[-19:]


def _of_the_future(saved: bytes) -> bytes:
    return saved.replace(b"isthmus-lastgood-1", b"isthmus-lastgood-9")


@pytest.mark.parametrize("damage", [_nothing, _half, _one_bit, _of_the_future])
async def test_a_start_with_a_damaged_file_while_the_registry_is_away(
    consul: Member, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """It is set aside; an Envoy that has something keeps it, for nothing is not shown to anybody; then all is as before."""
    registry = ConsulRegistry(name="consul", address=consul.address, heartbeat=0.5)
    async with served(tmp_path, registry, sync_timeout=0.5) as world:
        one = await world.upstream("one")
        await put(consul, one)
        await eventually(lambda: world.ports("web") == {one.port}, "it is known", NOTICED)
        await world.start_envoy()
        async with world.load(HOST):
            await world.stop()
            consul.kill()
            file = tmp_path / "state" / "consul.lastgood"
            file.write_bytes(damage(file.read_bytes()))
            with capture_logs() as logs:
                await world.start()
                await eventually(lambda: any(map(_is_set_aside, logs)), "it is set aside")
            (said,) = filter(_is_set_aside, logs)
            assert said["reason"]
            assert not file.exists()
            await world.until_stale(consul.address)
            await eventually(lambda: world.status.errors > 3, "several attempts, beyond the time to wait", NOTICED)
            assert not world.bridge.hub.ready
            assert world.bridge.server.snapshot.generation == 0
            consul.start()
            await world.until_current()
            await eventually(lambda: world.ports("web") == {one.port}, "it is known again", RECOVERED)


def _is_set_aside(event: Mapping[str, object]) -> bool:
    return event["event"] == "lastgood.set_aside"


async def _done(what: object) -> bool:
    await what  # type: ignore[misc]
    return True
