"""The whole bridge in this process, on ports of its own, reading files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, FileRegistry, ListenConfig, Registry, XdsConfig
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from tests.feature.client import Client
from tests.wait import eventually


class World:
    """A bridge, the folders that it reads, and the clients of its streams."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.folder = directory / "services"
        self.config = Config(
            registries=(FileRegistry(name="local", path=str(self.folder)),),
            xds=XdsConfig("127.0.0.1:0"),
            http=ListenConfig("127.0.0.1:0"),
            guard=GuardRules(hold=0),
            drain=DrainRules(grace=0),
            state_dir=str(directory / "state"),
        )
        self.bridge = Bridge(self.config)
        self._stack = stack

    def registry(self, name: str, folder: Path | None = None) -> Registry:
        """A registry of files in a folder of its own name."""
        return FileRegistry(name=name, path=str(folder or self.directory / name))

    def configure(self, **changes: Any) -> Config:
        """Other settings, for a start or a reload."""
        self.config = msgspec.structs.replace(self.config, **changes)
        return self.config

    async def start(self) -> None:
        self.bridge = Bridge(self.config)
        self._stack.push_async_callback(self.bridge.stop)
        await self.bridge.start()

    async def started(self) -> None:
        """Start, with the folder there, and wait until it is ready."""
        self.folder.mkdir(exist_ok=True)
        await self.start()
        await self.ready()

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.get("/readyz"))[0] == 200

        await eventually(is_ready, "the bridge is ready")

    def write(
        self, name: str, *addresses: str, folder: Path | None = None, port: str = "http", number: int = 80
    ) -> None:
        """A service in a file of its own, replaced in one step; an instance for each address."""
        write_service(folder or self.folder, name, addresses, port, number)

    async def client(
        self,
        *,
        node: str = "envoy",
        delta: bool = True,
        path: str = "",
        agent: str = "test",
        outbound: str = "",
    ) -> Client:
        client = Client(self.bridge.xds_address, node=node, delta=delta, path=path, agent=agent, outbound=outbound)
        return await self._stack.enter_async_context(client)

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and document (text where it is not JSON) of the HTTP side."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.bridge.http_address}{path}", timeout=aiohttp.ClientTimeout(10)) as answer,
        ):
            is_json = answer.content_type == "application/json"
            return answer.status, (await answer.json() if is_json else await answer.text())

    async def proxy(self, node: str = "envoy") -> dict[str, Any]:
        """What `/debug/proxies` says of a proxy, its types by name."""
        _, proxies = await self.get("/debug/proxies")
        (proxy,) = (p for p in proxies if p["node"] == node)
        return {**proxy, "types": {t["type"]: t for t in proxy["types"]}}

    async def metric(self, name: str, **labels: str) -> float:
        """One sample."""
        _, text = await self.get("/metrics")
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        (value,) = (s.value for s in samples if s.name == name and s.labels == labels)
        return float(value)


def write_service(folder: Path, name: str, addresses: Iterable[str], port: str = "http", number: int = 80) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    service = {
        "name": name,
        "ports": [{"name": port, "number": number}],
        "instances": [{"id": f"{name}-{a}", "address": a} for a in addresses],
    }
    new = folder / f".{name}.new"
    new.write_text(yaml.safe_dump({"services": [service]}))
    new.rename(folder / f"{name}.yaml")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Not yet started, so that a test may say how."""
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)
