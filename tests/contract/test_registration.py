"""Registering in every registry there is keeps the contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from isthmus.agent.duration import Duration
from isthmus.agent.registration import (
    BridgeRegistration,
    ConsulRegistration,
    EtcdRegistration,
    EurekaRegistration,
    Registration,
)
from isthmus.registry.adapter import Adapter
from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.etcd import EtcdAdapter, EtcdConfig
from isthmus.registry.etcd.config import Prefix
from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.kv.directory import DirectoryStore
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from isthmus.registry.workloads import WorkloadsAdapter
from tests.contract.registration_contract import RegistrationContract, World, agent, mk_registered, reading
from tests.servers.bridge import BridgeProcess
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.process import free_port
from tests.wait import eventually


class ConsulWorld(World):
    gone_within = 4

    def __init__(self, consul: Consul) -> None:
        self._consul = consul

    @property
    def config(self) -> Registration:
        return ConsulRegistration(address=self._consul.address, ttl=Duration(3))

    def make_adapter(self) -> Adapter:
        origin = Origin("dc1", "consul")
        return ConsulAdapter(origin, ConsulConfig(address=self._consul.address, heartbeat=1), OriginStatus(origin))

    async def forget(self) -> None:
        await self._consul.wipe()

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        return self._consul.outage()

    async def register_by_hand(self, service: str, id_: str) -> None:
        await self._consul.register(service, id_)


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = Consul(tmp_path_factory.mktemp("consul"))
    consul.start()
    try:
        asyncio.run(consul.ready())
        yield consul
    finally:
        consul.stop()


class TestConsul(RegistrationContract):
    @pytest.fixture
    async def world(self, consul: Consul) -> AsyncIterator[World]:
        yield ConsulWorld(consul)
        await consul.wipe()


class EurekaWorld(World):
    # Eureka waits twice as long as a lease says, and looks every half second here.
    gone_within = 8

    def __init__(self, eureka: Eureka) -> None:
        self._eureka = eureka

    @property
    def config(self) -> Registration:
        return EurekaRegistration(addresses=(self._eureka.address,), heartbeat=Duration(1))

    def make_adapter(self) -> Adapter:
        origin = Origin("spring", "eureka")
        said = {"addresses": [self._eureka.address], "poll_interval": 0.1, "timeout": 2, "taper": False}
        return EurekaAdapter(origin, msgspec.convert(said, EurekaConfig), OriginStatus(origin))

    async def forget(self) -> None:
        await self._eureka.wipe()

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        return self._eureka.outage()

    async def register_by_hand(self, service: str, id_: str) -> None:
        await self._eureka.register(service, id_)


@pytest.fixture(scope="module")
def eureka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Eureka]:
    settings = {"eureka.server.eviction-interval-timer-in-ms": "500"}
    eureka = Eureka(tmp_path_factory.mktemp("eureka"), settings)
    eureka.start()
    try:
        asyncio.run(eureka.ready())
        yield eureka
    finally:
        eureka.stop()


class TestEureka(RegistrationContract):
    @pytest.fixture
    async def world(self, eureka: Eureka) -> AsyncIterator[World]:
        await eureka.wipe()
        yield EurekaWorld(eureka)
        await eureka.wipe()


class EtcdWorld(World):
    gone_within = 5
    draining = None

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    @property
    def config(self) -> Registration:
        return EtcdRegistration(endpoints=(self._etcd.address,), ttl=Duration(3))

    def make_adapter(self) -> Adapter:
        origin = Origin("keys", "etcd")
        config = EtcdConfig(
            prefixes=(Prefix("/microservices/", layout="go-kratos"),), endpoints=(self._etcd.address,), heartbeat=0.5
        )
        return EtcdAdapter(origin, config, OriginStatus(origin))

    async def forget(self) -> None:
        await self._etcd.wipe()

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        return self._etcd.outage()

    async def register_by_hand(self, service: str, id_: str) -> None:
        said = {"id": id_, "name": service, "endpoints": ["http://10.0.0.1:80"]}
        await self._etcd.put(f"/microservices/{service}/{id_}", said)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    etcd = asyncio.run(Etcd.start_one(tmp_path_factory.mktemp("etcd")))
    try:
        yield etcd
    finally:
        etcd.stop()


class TestEtcd(RegistrationContract):
    @pytest.fixture
    async def world(self, etcd: Etcd) -> AsyncIterator[World]:
        await etcd.wipe()
        yield EtcdWorld(etcd)
        await etcd.wipe()


class BridgeWorld(World):
    """`isthmus serve`, with its store in a directory."""

    gone_within = 6

    def __init__(self, bridge: BridgeProcess, directory: Path) -> None:
        self._bridge = bridge
        self._store = DirectoryStore(directory)

    @property
    def config(self) -> Registration:
        return BridgeRegistration(addresses=(f"http://{self._bridge.http}",), ttl=Duration(3))

    def make_adapter(self) -> Adapter:
        origin = Origin("agents", "workloads")
        return WorkloadsAdapter(origin, self._store, OriginStatus(origin))

    async def forget(self) -> None:
        for workload in await self.call("GET", ""):
            await self.call("DELETE", f"/{workload['id']}?epoch={workload['epoch']}")

    def freeze(self) -> contextlib.AbstractContextManager[None]:
        return self._bridge.outage()

    async def register_by_hand(self, service: str, id_: str) -> None:
        body = {"service": service, "address": "10.0.0.1", "ports": {"http": 80}, "epoch": 2**60, "ttl": 60}
        await self.call("PUT", f"/{id_}", body)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self._bridge.http}/v1/workloads{path}", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeProcess, Path]]:
    directory = tmp_path_factory.mktemp("bridge")
    bridge = BridgeProcess(directory, [{"name": "agents", "type": "workloads"}], outbound=free_port())
    bridge.start()
    try:
        asyncio.run(bridge.ready())
        yield bridge, directory / "state"
    finally:
        bridge.stop()


class TestBridge(RegistrationContract):
    @pytest.fixture
    async def world(self, bridge: tuple[BridgeProcess, Path]) -> AsyncIterator[World]:
        world = BridgeWorld(*bridge)
        await world.forget()
        yield world
        await world.forget()

    async def test_what_no_agent_has_registered_is_left_alone(self, world: World, tmp_path: Path) -> None:
        """Whoever registers with the bridge names an epoch, and the larger one has the id."""
        await world.register_by_hand("reviews", "reviews-vm-1")
        async with agent(world.config, tmp_path, mk_registered()) as one, reading(world) as seen:
            before = seen.service("reviews")
            await eventually(one.registrar.problems, "it says why it does not register")
            assert "newer agent" in one.registrar.problems()[0]
            await one.registrar.withdraw()
            assert seen.service("reviews") == before
            assert before is not None
