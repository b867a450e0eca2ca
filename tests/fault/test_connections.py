"""The way between the bridge and any registry: connections that are slow, broken off, half closed, or carry nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from isthmus.registry.eureka import api as eureka_api
from isthmus.registry.nomad import http as nomad_http
from tests.fault.platforms import ConsulPlatform, EtcdPlatform, EurekaPlatform, NomadPlatform, Platform
from tests.fault.served import RECOVERED, Served, served
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.nomad import Nomad
from tests.servers.process import Process
from tests.servers.relay import Relay
from tests.wait import eventually


async def _start(name: str, directory: Path) -> tuple[Platform, Process]:
    match name:
        case "consul":
            consul = await Consul.start_dev(directory)
            return ConsulPlatform(consul), consul
        case "eureka":
            eureka = Eureka(directory)
            eureka.start()
            await eureka.ready()
            return EurekaPlatform(eureka), eureka
        case "etcd":
            etcd = await Etcd.start_one(directory)
            return EtcdPlatform(etcd), etcd
        case _:
            nomad = await Nomad.start_one(directory)
            return NomadPlatform(nomad), nomad


@pytest.fixture(scope="module", params=["consul", "eureka", "etcd", "nomad"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform, process = asyncio.run(_start(request.param, tmp_path_factory.mktemp(request.param)))
    try:
        yield platform
    finally:
        process.stop()


@pytest.fixture
async def platform(running: Platform, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Platform]:
    """With two instances. What takes a minute to be given up is given up after two seconds."""
    monkeypatch.setattr(eureka_api, "FULL_TIMEOUT", 2.0)
    monkeypatch.setattr(nomad_http, "SILENCE", 2.0)
    for n in (1, 2):
        await running.put(n)
    yield running
    await running.wipe()


@pytest.fixture
async def relay(platform: Platform) -> AsyncIterator[Relay]:
    relay = Relay(platform.port)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
async def world(platform: Platform, relay: Relay, tmp_path: Path) -> AsyncIterator[Served]:
    """A bridge that reads the registry through the relay, and has read it."""
    async with served(tmp_path, platform.registry("127.0.0.1", relay.port)) as world:
        await eventually(lambda: knows(world, 2), "both instances are in the catalog", 20)
        yield world


def knows(world: Served, count: int) -> bool:
    return set(world.healths("web")) == {f"10.0.0.{n}" for n in range(1, count + 1)}


async def test_a_connection_that_trickles(world: Served, relay: Relay, platform: Platform) -> None:
    """Some bytes come all the time, and never all. That is noticed as silence is, and nobody is lost."""
    relay.trickle(0.05)
    await platform.put(3)
    await world.until_stale()
    assert knows(world, 2)
    relay.mend()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)


@pytest.mark.parametrize("most", [100, 1_500])
async def test_an_answer_that_breaks_off(world: Served, relay: Relay, platform: Platform, most: int) -> None:
    """Half a message is no message, wherever it ends; what had been read stays."""
    relay.cut_after(most)
    await relay.drop()
    await platform.put(3)
    await world.until_stale()
    assert knows(world, 2)
    relay.mend()
    await relay.drop()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
    assert world.held == set()


async def test_a_connection_that_is_half_closed(world: Served, relay: Relay, platform: Platform) -> None:
    """The server says that it will say no more, and keeps the connection: a new one is made."""
    relay.half_close()
    await platform.put(3)
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
    await world.until_current()


async def test_nothing_gets_through(world: Served, relay: Relay, platform: Platform) -> None:
    """Cut off from one moment to the next, while every connection stays open; the age of what is served is told."""
    began = time.time()
    relay.stall()
    await platform.put(3)
    await world.until_stale()
    assert world.status.stale_since is not None
    assert world.status.stale_since < began + 2, "stale since the last proof of life"
    assert knows(world, 2)
    relay.mend()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
