"""The embedded registries: a directory of files, or a real Consul agent that lives as long as the demo."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec
import yaml

from isthmus.bridge.config import ConsulRegistry, FileRegistry, Registry
from isthmus.cli.demo.bookinfo import PORT
from isthmus.cli.demo.child import Child
from isthmus.cli.demo.programs import DemoError, find_program, free_ports
from isthmus.registry.model import Health

_GRACE = 3.0
_START_SECONDS = 30.0


class Entry(msgspec.Struct, frozen=True):
    """One instance as the registry is to know it."""

    service: str
    version: str
    id: str
    port: int
    health: Health = Health.HEALTHY
    weight: int = 1


class EmbeddedRegistry(Protocol):
    """A registry that the demo fills and changes."""

    kind: str
    where: str
    """For people: where it can be looked at."""

    async def start(self) -> None:
        """Make it ready to be written to. Raises DemoError."""
        ...

    async def stop(self) -> None:
        """End it."""
        ...

    def to_config(self) -> Registry:
        """How the bridge is told to read it."""
        ...

    async def write(self, service: str, entries: Iterable[Entry]) -> float:
        """Let a service have exactly these instances; returns the monotonic second at which the registry had it."""
        ...


class FileDemoRegistry:
    """One file per service, replaced by renaming."""

    kind = "file"

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "services"
        self.where = str(self._directory)

    async def start(self) -> None:
        self._directory.mkdir()

    async def stop(self) -> None:
        """Nothing runs."""

    def to_config(self) -> Registry:
        return FileRegistry(name="files", path=str(self._directory))

    async def write(self, service: str, entries: Iterable[Entry]) -> float:
        document = {
            "name": service,
            "ports": [{"name": "http", "number": PORT}],
            "instances": [
                {
                    "id": e.id,
                    "address": "127.0.0.1",
                    "ports": {"http": e.port},
                    "health": e.health.value,
                    "weight": e.weight,
                    "labels": {"version": e.version},
                }
                for e in entries
            ],
        }
        temporary = self._directory / f".{service}.new"
        temporary.write_text(yaml.safe_dump({"services": [document]}, sort_keys=False))
        temporary.rename(self._directory / f"{service}.yaml")
        return time.monotonic()


class ConsulDemoRegistry:
    """A real `consul agent -dev`; health is a check of each instance."""

    kind = "consul"

    def __init__(self, directory: Path) -> None:
        self._program = find_program("consul", "consul")
        self._directory = directory / "consul"
        self._ports = dict(zip(("http", "server", "serf_lan", "serf_wan"), free_ports(4), strict=True))
        self.where = f"http://127.0.0.1:{self._ports['http']}"
        self._known: dict[str, dict[str, Entry]] = {}
        self._child: Child | None = None
        self._session = aiohttp.ClientSession(self.where, timeout=aiohttp.ClientTimeout(total=5))

    async def start(self) -> None:
        self._directory.mkdir()
        settings = {
            "ports": self._ports | {"dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1},
            "disable_update_check": True,
        }
        config = self._directory / "consul.json"
        config.write_text(json.dumps(settings))
        argv = [str(self._program), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]
        self._child = await Child.start(
            [*argv, "-node=isthmus-demo", f"-config-file={config}"],
            self._directory / "consul.log",
            {"HOME": str(self._directory), "PATH": "/usr/bin:/bin"},
        )
        deadline = time.monotonic() + _START_SECONDS
        while not await self._is_leader():
            if self._child.status is not None:
                raise DemoError(f"Consul ended with status {self._child.status}: {self._child.last_words()}")
            if time.monotonic() > deadline:
                raise DemoError(f"Consul had no leader after {_START_SECONDS:.0f} s: {self._child.last_words()}")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        await self._session.close()
        if self._child is not None:
            await self._child.stop(_GRACE)

    def to_config(self) -> Registry:
        return ConsulRegistry(name="consul", address=self.where)

    async def write(self, service: str, entries: Iterable[Entry]) -> float:
        known = self._known.setdefault(service, {})
        wanted = {e.id: e for e in entries}
        for id_, entry in wanted.items():
            before = known.get(id_)
            if before is None or before.weight != entry.weight:
                await self._register(entry)
            elif before != entry:
                await self._put(f"/v1/agent/check/update/check:{id_}", {"Status": _check_status(entry)})
        for id_ in known.keys() - wanted.keys():
            await self._put(f"/v1/agent/service/deregister/{id_}", None)
        self._known[service] = wanted
        return time.monotonic()

    async def _register(self, entry: Entry) -> None:
        body = {
            "ID": entry.id,
            "Name": entry.service,
            "Address": "127.0.0.1",
            "Port": entry.port,
            "Meta": {"version": entry.version, "port": str(PORT), "protocol": "http"},
            "Weights": {"Passing": entry.weight, "Warning": 1},
            "Check": {"CheckID": f"check:{entry.id}", "TTL": "24h", "Status": _check_status(entry)},
        }
        await self._put("/v1/agent/service/register", body)

    async def _put(self, path: str, body: object) -> None:
        try:
            async with self._session.put(path, json=body) as response:
                answer = await response.text()
        except (aiohttp.ClientError, TimeoutError) as e:
            raise DemoError(f"Consul did not answer PUT {path}: {e or type(e).__name__}") from None
        if response.status != 200:
            raise DemoError(f"Consul answered {response.status} to PUT {path}: {answer[:200]}")

    async def _is_leader(self) -> bool:
        """Whether it has elected itself and registered its own service."""
        try:
            async with self._session.get("/v1/health/service/consul") as response:
                return response.status == 200 and bool(await response.json())
        except (aiohttp.ClientError, TimeoutError):
            return False


def _check_status(entry: Entry) -> str:
    return "passing" if entry.health is Health.HEALTHY else "critical"
