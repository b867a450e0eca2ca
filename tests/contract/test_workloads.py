"""The registry of what registers with the bridge keeps the contract, on each store."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from isthmus.registry.kv.config import ConsulStoreConfig, EtcdStoreConfig
from isthmus.registry.kv.consul import ConsulStore
from isthmus.registry.kv.directory import DirectoryStore
from isthmus.registry.kv.edge import Store
from isthmus.registry.kv.etcd import EtcdStore
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from isthmus.registry.workloads import WorkloadsAdapter
from isthmus.registry.workloads.record import FOLDER, Workload, to_record
from tests.contract.adapter_contract import AdapterContract, Instances, World
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd


class WorkloadsWorld(World):
    """A store with records in it."""

    notices_within = 20

    def __init__(self, store: Store) -> None:
        self.store = store

    def make_adapter(self) -> WorkloadsAdapter:
        origin = Origin("agents", "workloads")
        return WorkloadsAdapter(origin, self.store, OriginStatus(origin))

    async def set_service(self, name: str, instances: Instances) -> None:
        before = (await self.store.read(FOLDER)).entries
        for id_, (address, port) in instances.items():
            workload = Workload(
                id=id_, service=name, address=address, ports={"http": port}, numbers={"http": 80}, epoch=1
            )
            entry = before.get(id_)
            assert await self.store.put(f"{FOLDER}/{id_}", to_record(workload), entry.version if entry else "")
        for id_, entry in before.items():
            if id_.startswith(f"{name}-") and id_ not in instances:
                assert await self.store.delete(f"{FOLDER}/{id_}", entry.version)

    async def remove(self, name: str) -> None:
        await self.set_service(name, {})

    async def spoil(self) -> str:
        assert await self.store.put(f"{FOLDER}/worker-1", b'{"service": "worker"}', "")
        return "worker-1"


class DirectoryWorld(WorkloadsWorld):
    """Unreadable means that the directory is away."""

    def __init__(self, parent: Path) -> None:
        self._directory = parent / "state"
        self._away = parent / "away"
        self._backup = parent / "backup"
        super().__init__(DirectoryStore(self._directory))

    async def break_(self) -> None:
        self._directory.rename(self._away)

    async def heal(self) -> None:
        self._away.rename(self._directory)

    async def save(self) -> None:
        shutil.copytree(self._directory, self._backup)

    async def restore(self) -> None:
        self._directory.rename(self._away)
        self._backup.rename(self._directory)


class TestInADirectory(AdapterContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return DirectoryWorld(tmp_path)


class ConsulWorld(WorkloadsWorld):
    """Unreadable means frozen."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._backup = b""
        super().__init__(ConsulStore(ConsulStoreConfig(address=consul.address)))

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


class TestInConsul(AdapterContract):
    @pytest.fixture
    async def world(self, consul: Consul) -> AsyncIterator[World]:
        world = ConsulWorld(consul)
        await world.store.get("opened")
        yield world
        await world.store.close()
        await consul.request("DELETE", "/v1/kv/?recurse")


class EtcdWorld(WorkloadsWorld):
    """Unreadable means frozen."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        super().__init__(EtcdStore(EtcdStoreConfig(endpoints=(etcd.address,))))

    async def break_(self) -> None:
        self._etcd.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._etcd.send_signal(signal.SIGCONT)
        await self._etcd.ready()

    async def save(self) -> None:
        await self._etcd.save()

    async def restore(self) -> None:
        await self._etcd.restore()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    etcd = asyncio.run(Etcd.start_one(tmp_path_factory.mktemp("etcd")))
    try:
        yield etcd
    finally:
        etcd.stop()


class TestInEtcd(AdapterContract):
    @pytest.fixture
    async def world(self, etcd: Etcd) -> AsyncIterator[World]:
        world = EtcdWorld(etcd)
        await world.store.get("opened")
        yield world
        await world.store.close()
        await etcd.wipe()
