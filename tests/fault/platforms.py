"""The real registries, each behind the same few words, for what can happen to the way to any of them."""

from __future__ import annotations

import abc
import random

from isthmus.bridge.config import ConsulRegistry, EtcdRegistry, EurekaRegistry, NomadRegistry, Registry
from isthmus.registry.etcd.config import Prefix
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.nomad import Nomad

LONG = random.Random(4).randbytes(1_500).hex()
"""What makes an instance larger than one TCP segment, compressed or not."""


class Platform(abc.ABC):
    """A registry that listens on `port` and holds services `web` on 10.0.0.N."""

    port: int

    @abc.abstractmethod
    def registry(self, host: str, port: int) -> Registry:
        """How a bridge reads it, at this host and port. A failure is noticed within three seconds or so."""

    @abc.abstractmethod
    async def put(self, n: int) -> None:
        """Register the instance at 10.0.0.`n`."""

    @abc.abstractmethod
    async def wipe(self) -> None:
        """Take everything away."""


class ConsulPlatform(Platform):
    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self.port = consul.port

    def registry(self, host: str, port: int) -> Registry:
        return ConsulRegistry(name="consul", address=f"http://{host}:{port}", heartbeat=0.5)

    async def put(self, n: int) -> None:
        # Consul takes 512 bytes as one value.
        meta = {f"long-{i}": LONG[500 * i : 500 * i + 500] for i in range(6)}
        await self._consul.catalog_register("n1", "web", f"web-{n}", Address=f"10.0.0.{n}", Meta=meta)

    async def wipe(self) -> None:
        await self._consul.wipe()


class EurekaPlatform(Platform):
    def __init__(self, eureka: Eureka) -> None:
        self._eureka = eureka
        self.port = eureka.port

    def registry(self, host: str, port: int) -> Registry:
        return EurekaRegistry(name="eureka", addresses=(f"http://{host}:{port}/eureka",), poll_interval=0.2, timeout=1)

    async def put(self, n: int) -> None:
        await self._eureka.register("web", f"web-{n}", ipAddr=f"10.0.0.{n}", metadata={"long": LONG})

    async def wipe(self) -> None:
        await self._eureka.wipe()


class EtcdPlatform(Platform):
    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self.port = etcd.port

    def registry(self, host: str, port: int) -> Registry:
        prefixes = (Prefix("/services/"),)
        return EtcdRegistry(name="etcd", endpoints=(f"http://{host}:{port}",), prefixes=prefixes, heartbeat=0.5)

    async def put(self, n: int) -> None:
        value = {"Op": 0, "Addr": f"10.0.0.{n}:8080", "Metadata": {"long": LONG}}
        await self._etcd.put(f"/services/web/{n}", value)

    async def wipe(self) -> None:
        await self._etcd.wipe()


class NomadPlatform(Platform):
    def __init__(self, nomad: Nomad) -> None:
        self._nomad = nomad
        self.port = nomad.port

    def registry(self, host: str, port: int) -> Registry:
        return NomadRegistry(name="nomad", address=f"http://{host}:{port}", heartbeat=0.5)

    async def put(self, n: int) -> None:
        await self._nomad.register("default", "web", f"web-{n}", f"10.0.0.{n}", 8080, Tags=[f"long={LONG}"])

    async def wipe(self) -> None:
        await self._nomad.wipe()
