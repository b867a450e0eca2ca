"""The adapters that keep the contract."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import AdapterContract, Instances, World
from tests.servers.consul import Consul


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
