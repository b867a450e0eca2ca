"""The adapters that keep the contract."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.etcd import EtcdAdapter, EtcdConfig
from isthmus.registry.etcd.config import Prefix
from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.model import Origin
from isthmus.registry.nomad import NomadAdapter, NomadConfig
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import AdapterContract, Instances, World
from tests.servers.consul import Consul
from tests.servers.etcd import LATEST, OLDEST, Etcd
from tests.servers.eureka import Eureka
from tests.servers.nomad import Nomad


class ConsulWorld(World):
    """An agent in development mode; unreadable means frozen."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._ids: dict[str, set[str]] = {}
        self._backup = b""

    def make_adapter(self) -> ConsulAdapter:
        origin = Origin("dc1", "consul")
        return ConsulAdapter(origin, ConsulConfig(address=self._consul.address, heartbeat=0.5), OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        for id_, (address, port) in instances.items():
            await self._consul.catalog_register("n1", name, id_, Address=address, Port=port)
        for id_ in self._ids.get(name, set()) - instances.keys():
            await self._consul.catalog_deregister("n1", id_)
        self._ids[name] = set(instances)

    async def remove(self, name: str) -> None:
        for id_ in self._ids.pop(name):
            await self._consul.catalog_deregister("n1", id_)

    async def spoil(self) -> str:
        await self._consul.catalog_register("n1", "worker", "worker-1", Port=0)
        return "worker-1"

    async def break_(self) -> None:
        self._consul.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._consul.send_signal(signal.SIGCONT)
        await self._consul.ready()

    async def save(self) -> None:
        self._backup = await self._consul.request("GET", "/v1/snapshot")

    async def restore(self) -> None:
        await self._consul.request("PUT", "/v1/snapshot", self._backup)


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = Consul(tmp_path_factory.mktemp("consul"))
    consul.start()
    try:
        asyncio.run(consul.ready())
        yield consul
    finally:
        consul.stop()


class TestConsul(AdapterContract):
    @pytest.fixture
    async def world(self, consul: Consul) -> AsyncIterator[World]:
        yield ConsulWorld(consul)
        await consul.wipe()


class EurekaWorld(World):
    """One server; unreadable means frozen, and restored means restarted, with clients that register again."""

    def __init__(self, eureka: Eureka) -> None:
        self._eureka = eureka
        self._backup: dict[str, dict[str, Any]] = {}

    def make_adapter(self) -> EurekaAdapter:
        origin = Origin("spring", "eureka")
        config = EurekaConfig(addresses=(self._eureka.address,), poll_interval=0.1, timeout=1)
        return EurekaAdapter(origin, config, OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        before = {i for i, instance in (await self._eureka.instances()).items() if instance["app"] == name.upper()}
        for id_, (address, port) in instances.items():
            await self._eureka.register(name, id_, ipAddr=address, port=port)
        for id_ in before - instances.keys():
            await self._eureka.cancel(name, id_)

    async def remove(self, name: str) -> None:
        await self.set_service(name, {})

    async def spoil(self) -> str:
        await self._eureka.register("worker", "worker-1", port=0)
        return "worker-1"

    async def break_(self) -> None:
        self._eureka.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._eureka.send_signal(signal.SIGCONT)
        await self._eureka.ready()

    async def save(self) -> None:
        self._backup = await self._eureka.instances()

    async def restore(self) -> None:
        self._eureka.kill()
        self._eureka.start()
        await self._eureka.ready()
        for id_, instance in self._backup.items():
            await self._eureka.register(instance["app"], id_, ipAddr=instance["ipAddr"], port=instance["port"])


@pytest.fixture(scope="module")
def eureka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Eureka]:
    eureka = Eureka(tmp_path_factory.mktemp("eureka"))
    eureka.start()
    try:
        asyncio.run(eureka.ready())
        yield eureka
    finally:
        eureka.stop()


class TestEureka(AdapterContract):
    @pytest.fixture
    async def world(self, eureka: Eureka) -> AsyncIterator[World]:
        yield EurekaWorld(eureka)
        await eureka.wipe()


class EtcdWorld(World):
    """One member, with keys as gRPC's resolver reads them; unreadable means frozen."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    def make_adapter(self) -> EtcdAdapter:
        origin = Origin("keys", "etcd")
        config = EtcdConfig(prefixes=(Prefix("/services/"),), endpoints=(self._etcd.address,), heartbeat=0.5)
        return EtcdAdapter(origin, config, OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        before = await self._etcd.get_keys(f"/services/{name}/")
        wanted = {
            f"/services/{name}/{id_}": f'{{"Op":0,"Addr":"{a}:{p}","Metadata":null}}'
            for id_, (a, p) in instances.items()
        }
        await self._etcd.transaction(wanted, [key for key in before if key not in wanted])

    async def remove(self, name: str) -> None:
        await self.set_service(name, {})

    async def spoil(self) -> str:
        await self._etcd.put("/services/worker/worker-1", "who knows")
        return "worker-1"

    async def break_(self) -> None:
        self._etcd.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._etcd.send_signal(signal.SIGCONT)
        await self._etcd.ready()

    async def save(self) -> None:
        await self._etcd.save()

    async def restore(self) -> None:
        await self._etcd.restore()


@pytest.fixture(scope="module", params=[OLDEST, LATEST])
def etcd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    directory = tmp_path_factory.mktemp("etcd")
    etcd = asyncio.run(Etcd.start_one(directory, request.param))
    try:
        yield etcd
    finally:
        etcd.stop()


class TestEtcd(AdapterContract):
    @pytest.fixture
    async def world(self, etcd: Etcd) -> AsyncIterator[World]:
        yield EtcdWorld(etcd)
        await etcd.wipe()


class NomadWorld(World):
    """One agent; what it is told by the client's own calls. Unreadable means frozen."""

    def __init__(self, nomad: Nomad) -> None:
        self._nomad = nomad
        self._ids: dict[str, set[str]] = {}
        self._backup = b""

    def make_adapter(self) -> NomadAdapter:
        origin = Origin("global", "nomad")
        return NomadAdapter(origin, NomadConfig(address=self._nomad.address, heartbeat=0.5), OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        for id_, (address, port) in instances.items():
            await self._nomad.register("default", name, id_, address, port)
        for id_ in self._ids.get(name, set()) - instances.keys():
            await self._nomad.deregister("default", id_)
        self._ids[name] = set(instances)

    async def remove(self, name: str) -> None:
        for id_ in self._ids.pop(name):
            await self._nomad.deregister("default", id_)

    async def spoil(self) -> str:
        await self._nomad.register("default", "worker", "worker-1", "10.0.0.1", 0)
        return "worker-1"

    async def break_(self) -> None:
        self._nomad.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._nomad.send_signal(signal.SIGCONT)
        await self._nomad.ready()

    async def save(self) -> None:
        self._backup = await self._nomad.request("GET", "/v1/operator/snapshot")

    async def restore(self) -> None:
        await self._nomad.request("PUT", "/v1/operator/snapshot", self._backup)


@pytest.fixture(scope="module")
def nomad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    nomad = Nomad(tmp_path_factory.mktemp("nomad"))
    nomad.start()
    try:
        asyncio.run(nomad.ready())
        yield nomad
    finally:
        nomad.stop()


class TestNomad(AdapterContract):
    @pytest.fixture
    async def world(self, nomad: Nomad) -> AsyncIterator[World]:
        yield NomadWorld(nomad)
        await nomad.wipe()
