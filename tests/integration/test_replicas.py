"""Two bridges that have the same store, a real one."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, FileRegistry, ListenConfig, MeshConfig, WorkloadsRegistry, XdsConfig
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from isthmus.registry.kv.config import ConsulStoreConfig, EtcdStoreConfig, StoreConfig
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.process import Process
from tests.wait import eventually

NETWORK = "127.64.0.0/24"


class World:
    """A store, a folder of services that all bridges read, and the bridges."""

    def __init__(self, server: Process, store: StoreConfig, directory: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self.store = store
        self.folder = directory / "services"
        self.folder.mkdir()
        self._directory = directory
        self._stack = stack

    async def start(self, name: str, hold: float = 300) -> Bridge:
        """Start a replica; one that had the name before is the same one."""
        directory = self._directory / name
        known = directory / "http"
        directory.mkdir(exist_ok=True)
        bridge = Bridge(
            Config(
                registries=(FileRegistry(name="local", path=str(self.folder)), WorkloadsRegistry(name="agents")),
                xds=XdsConfig("127.0.0.1:0"),
                http=ListenConfig(known.read_text() if known.exists() else "127.0.0.1:0"),
                mesh=MeshConfig(virtual_ips=NETWORK),
                drain=DrainRules(grace=0),
                guard=GuardRules(hold=hold),
                state_dir=str(directory),
                store=self.store,
                sync_timeout=1,
            )
        )
        self._stack.push_async_callback(bridge.stop)
        await bridge.start()
        known.write_text(bridge.http_address)
        return bridge

    def write(self, names: list[str], port: str = "tcp-db") -> None:
        """These services, in one file that is replaced in one step."""
        ports = [{"name": port, "number": 5432}]
        services = [{"name": n, "ports": ports, "instances": [{"address": "10.0.0.1"}]} for n in names]
        new = self.folder / ".new"
        new.write_text(yaml.safe_dump({"services": services}))
        new.rename(self.folder / "all.yaml")


@pytest.fixture(params=["etcd", "consul"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    server: Etcd | Consul
    if request.param == "etcd":
        server = await Etcd.start_one(tmp_path / "etcd")
        store: StoreConfig = EtcdStoreConfig(endpoints=(server.address,))
    else:
        server = await Consul.start_dev(tmp_path / "consul")
        store = ConsulStoreConfig(address=server.address)
    try:
        async with AsyncExitStack() as stack:
            yield World(server, store, tmp_path, stack)
    finally:
        server.stop()


def addresses(bridge: Bridge) -> dict[str, str]:
    """By name, of the services that there are."""
    return {k.name: a for k, a in bridge.published.virtual_ips.items() if k in bridge.published.catalog.services}


async def metrics(bridge: Bridge) -> dict[str, float]:
    """Those of the store, by the end of their names."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{bridge.http_address}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"^isthmus_((?:store|virtual_ips)_\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def ask(bridge: Bridge, method: str, path: str, **more: Any) -> tuple[int, Any]:
    url = f"http://{bridge.http_address}/v1/workloads{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, **more) as answer:
        return answer.status, await answer.json()


async def register(bridge: Bridge, id_: str = "vm-1", ttl: int = 1) -> None:
    body = {"service": "reviews", "address": "10.0.0.5", "ports": {"http": 9080}, "epoch": 1, "ttl": ttl}
    assert await ask(bridge, "PUT", f"/{id_}", json=body) == (200, {"ttl": ttl})


async def workload(bridge: Bridge, id_: str = "vm-1") -> dict[str, Any] | None:
    return next((w for w in (await ask(bridge, "GET", ""))[1] if w["id"] == id_), None)


def has_reviews(*bridges: Bridge) -> Callable[[], bool]:
    return lambda: all(any(k.name == "reviews" for k in b.published.catalog.services) for b in bridges)


async def test_addresses_are_the_same_everywhere_whatever_comes_and_goes(world: World) -> None:
    """Both see new services in the same moment, hundreds of them for a few addresses; a third that starts later agrees."""
    names = [f"s{n}" for n in range(200)]
    world.write([])
    one, other = await world.start("one"), await world.start("other")

    def both_have(some: set[str]) -> bool:
        return addresses(one).keys() == addresses(other).keys() == some

    for _ in range(12):
        some = set(random.sample(names, 60))
        world.write(sorted(some))
        await eventually(partial(both_have, some), "all have an address")
        assert addresses(one) == addresses(other)
        assert not one.vips.problem
        assert not other.vips.problem
    third = await world.start("third")
    await eventually(lambda: len(addresses(third)) == 60, "it has them all")

    assert addresses(third) == addresses(one)
    known = dict(one.published.virtual_ips)
    assert known == dict(other.published.virtual_ips)
    assert len(known) > 150
    assert len(set(known.values())) == len(known)
    assert "127.64.0.1" not in known.values()


async def test_while_the_store_is_down_addresses_are_served_and_new_ones_wait(world: World) -> None:
    """Changes of instances go on at once, also in a bridge that starts meanwhile."""
    world.write(["db"])
    one = await world.start("one")
    await eventually(lambda: "db" in addresses(one), "it has an address")
    before = addresses(one)
    before_outage = (await metrics(one))["store_last_success_timestamp_seconds"]
    with world.server.outage():
        world.write(["db", "cache"])
        await eventually(lambda: len(one.published.catalog.services) == 2, "the new service is published", timeout=3)
        await eventually(lambda: one.vips.problem, "it is said why it has no address", timeout=20)
        assert "store " in one.vips.problem
        assert addresses(one) == before
        said = await metrics(one)
        assert said.items() >= {"store_up": 0, "virtual_ips_waiting": 1}.items()
        assert said["store_errors_total"] >= 1
        await one.stop()
        again = await world.start("one")
        await eventually(lambda: addresses(again) == before, "it goes by its copy", timeout=20)
    await eventually(lambda: len(addresses(again)) == 2, "the other one gets its address", timeout=30)
    assert addresses(again)["db"] == before["db"]
    await eventually(lambda: not again.vips.problem, "all is well")
    said = await metrics(again)
    assert said.items() >= {"store_up": 1, "virtual_ips_waiting": 0}.items()
    assert said["store_last_success_timestamp_seconds"] > before_outage


async def test_what_registers_at_one_is_served_by_all(world: World) -> None:
    """Whoever is asked answers; the one that watches over it is not in the way."""
    world.write([])
    one, other = await world.start("one"), await world.start("other")
    await register(one, ttl=30)
    await eventually(has_reviews(one, other), "both serve it")

    assert (await ask(other, "POST", "/vm-1/heartbeat", json={"epoch": 1}))[0] == 200
    found = await workload(other)
    assert found is not None
    assert found["bridge"] == (await workload(one) or {})["bridge"]
    assert (await ask(other, "DELETE", "/vm-1?epoch=1"))[0] == 200
    await eventually(lambda: not has_reviews(one)() and not has_reviews(other)(), "it is gone from both")


async def test_heartbeats_may_come_to_any_of_them(world: World) -> None:
    """As through a load balancer: one that hears of another one's workloads says so."""
    world.write([])
    one, other = await world.start("one"), await world.start("other")
    await register(one)
    await register(other, "vm-2")
    await eventually(has_reviews(one, other), "both serve it")
    loop = asyncio.get_running_loop()
    until = loop.time() + 6

    async def beat() -> bool:
        for id_ in ("vm-1", "vm-2"):
            assert (await ask(other, "POST", f"/{id_}/heartbeat", json={"epoch": 1}))[0] == 200
        return loop.time() > until

    await eventually(beat, "several times the TTL is over", every=0.2)
    found = await workload(one)
    assert found is not None
    assert found["bridge"].endswith(one.http_address.rpartition(":")[2])
    await eventually(lambda: not has_reviews(one)() and not has_reviews(other)(), "silence ends it", timeout=20)


async def test_a_replica_that_stops_takes_nobody_with_it(world: World) -> None:
    """Who comes to the other one is taken over; who is heard nowhere is given the hold, and the same replica back again."""
    world.write([])
    one, other = await world.start("one", hold=12), await world.start("other", hold=12)
    await register(one)
    await register(one, "vm-2")
    await eventually(has_reviews(one, other), "both serve it")

    async def knows_both() -> bool:
        return bool(await workload(other) and await workload(other, "vm-2"))

    await eventually(knows_both, "the other one could take them over")
    name = (await workload(other) or {})["bridge"]
    await one.stop()

    async def taken_over() -> bool:
        assert (await ask(other, "POST", "/vm-1/heartbeat", json={"epoch": 1}))[0] == 200
        both = await workload(other), await workload(other, "vm-2")
        return bool(both[0] and both[1] and both[0]["bridge"] != name and both[1]["held"])

    await eventually(taken_over, "one is taken over, and the other one held", timeout=20, every=0.2)

    one = await world.start("one", hold=12)
    assert (await ask(one, "POST", "/vm-2/heartbeat", json={"epoch": 1}))[0] == 200
    assert (await workload(one, "vm-2") or {})["bridge"] == name
    await one.stop()

    async def gone() -> bool:
        assert (await ask(other, "POST", "/vm-1/heartbeat", json={"epoch": 1}))[0] == 200
        return await workload(other, "vm-2") is None

    await eventually(gone, "in the end it is believed", timeout=40, every=0.2)
    assert await workload(other) is not None


async def test_a_store_that_was_down_is_no_reason_to_expire_what_others_heard(world: World) -> None:
    """Of what comes to the other one, the one that watches over it hears nothing for as long."""
    world.write([])
    one, other = await world.start("one"), await world.start("other")
    await register(one)
    await eventually(has_reviews(one, other), "both serve it")
    loop = asyncio.get_running_loop()

    async def beat_until(end: float) -> None:
        async def beat() -> bool:
            assert (await ask(other, "POST", "/vm-1/heartbeat", json={"epoch": 1}))[0] == 200
            return loop.time() > end

        await eventually(beat, "the time is over", timeout=60, every=0.2)

    for outage in (4, 12):
        world.server.send_signal(signal.SIGSTOP)
        try:
            await beat_until(loop.time() + outage)
        finally:
            world.server.send_signal(signal.SIGCONT)
        await beat_until(loop.time() + 4)
    assert await workload(one) is not None
    await eventually(has_reviews(one, other), "both serve it still")
