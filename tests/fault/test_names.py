"""Registries known by a host name that ceases to resolve, and moves: each platform, a bridge in a process of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.nomad_scripted import ScriptedNomad
from tests.servers.process import Process, free_port
from tests.servers.relay import Relay
from tests.servers.scripted_eureka import ScriptedEureka
from tests.wait import eventually

NAME = "registry.example"
PLATFORMS = ("consul", "eureka", "etcd", "nomad")
UNSHARE = ["unshare", "--mount", "--map-root-user"]


class Resolver:
    """A hosts file that is the machine's for one process."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "hosts"
        self.forget()

    def forget(self) -> None:
        """The name resolves no more."""
        self._write("")

    def point(self, address: str) -> None:
        """The name is this address from now on."""
        self._write(f"{address} {NAME}\n")

    def _write(self, line: str) -> None:
        # In place: the file is mounted, and another one would be another one.
        self.file.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{line}")

    def around(self, directory: Path, *argv: str | Path) -> list[str | Path]:
        """A command that sees this file as /etc/hosts, and asks no name server."""
        nowhere = directory / "resolv.conf"
        nowhere.write_text("nameserver 127.0.0.1:1\noptions attempts:1 timeout:1\n")
        script = f'mount --bind {self.file} /etc/hosts && mount --bind {nowhere} /etc/resolv.conf && exec "$@"'
        return [*UNSHARE, "sh", "-c", script, "sh", *argv]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody have mounts of its own (unshare --mount --map-root-user)")


class Named:
    """All four platforms behind relays, and a bridge that knows them by name."""

    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        self.resolver = Resolver(directory)
        self.relays = {name: Relay(port) for name, port in ports.items()}
        self._directory = directory
        self._http = f"127.0.0.1:{free_port()}"
        self.process: Process | None = None

    async def start(self) -> None:
        for relay in self.relays.values():
            await relay.start()
        at = {name: f"http://{NAME}:{relay.port}" for name, relay in self.relays.items()}
        prefixes = [{"prefix": "/services/", "layout": "go-zero"}]
        file = self._directory / "isthmus.yaml"
        registries: list[dict[str, Any]] = [
            {"type": "consul", "address": at["consul"], "heartbeat": 0.5},
            {"type": "eureka", "addresses": [f"{at['eureka']}/eureka"], "poll_interval": 0.2, "timeout": 1},
            {"type": "etcd", "endpoints": [at["etcd"]], "prefixes": prefixes, "heartbeat": 0.5},
            {"type": "nomad", "address": at["nomad"], "heartbeat": 0.5},
        ]
        settings = {
            "registries": [{"name": r["type"]} | r for r in registries],
            "xds": {"address": f"127.0.0.1:{free_port()}"},
            "http": {"address": self._http},
            "drain": {"grace": 0},
            "state_dir": "state",
        }
        file.write_text(yaml.safe_dump(settings))
        isthmus = Path(sys.executable).parent / "isthmus"
        argv = self.resolver.around(self._directory, isthmus, "serve", "-c", file)
        self.process = Process(argv, self._directory / "serve.log")
        self.process.start()

    async def stop(self) -> None:
        for relay in self.relays.values():
            await relay.stop()
        if self.process is not None:
            self.process.stop()

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self._http}{path}") as answer:
            return json.loads(await answer.read())

    async def states(self) -> dict[str, Any]:
        assert self.process is not None
        if not self.process.running:
            raise RuntimeError(f"the bridge has ended:\n{self.process.output()[-3000:]}")
        return {state["name"]: state for state in await self.get("/debug/registries")}

    async def current(self) -> bool:
        """Whether all are current."""
        return all(s["synced"] and s["stale_for_s"] is None for s in (await self.states()).values())

    async def lost(self) -> bool:
        """Whether each is stale because its name is not known."""
        return all(s["stale_for_s"] is not None and NAME in s["error"] for s in (await self.states()).values())

    async def instances(self) -> dict[str, list[str]]:
        """Addresses by service."""
        listed = (await self.get("/debug/catalog"))["services"]
        return {s["key"]["name"]: sorted(i["address"] for i in s["instances"]) for s in listed}


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Consul]:
    consul = Consul(tmp_path / "consul")
    consul.start()
    yield consul
    consul.stop()


@pytest.fixture
async def world(consul: Consul, tmp_path: Path) -> AsyncIterator[Named]:
    etcd = await Etcd.start_one(tmp_path / "etcd")
    await consul.ready()
    async with ScriptedEureka() as eureka, ScriptedNomad() as nomad:
        await consul.catalog_register("n1", "consul-web", Address="10.0.0.1")
        eureka.put("eureka-web", "web-1", ipAddr="10.0.0.1")
        await etcd.put("/services/etcd-web/1", "10.0.0.1:80")
        await nomad.run("nomad-web", "a1")
        addresses = {"consul": consul.address, "etcd": etcd.address, "nomad": nomad.address, "eureka": eureka.address}
        ports = {
            name: int(at.removeprefix("http://").partition("/")[0].rpartition(":")[2]) for name, at in addresses.items()
        }
        world = Named(tmp_path, ports)
        try:
            yield world
        finally:
            await world.stop()
            etcd.stop()


SERVED = {f"{name}-web": ["10.0.0.1"] for name in PLATFORMS}


async def test_a_name_that_does_not_resolve_for_a_while(world: Named) -> None:
    """Not at the start, then for some time, then not again while connections break, then once more: without a restart."""
    await world.start()
    await eventually(world.lost, "no name is known, and each registry says so", 30, every=0.1)
    world.resolver.point("127.0.0.1")
    await eventually(world.current, "all are read", 60, every=0.1)
    assert await world.instances() == SERVED

    world.resolver.forget()

    async def lost() -> bool:
        """However often it connects to where the name was a moment ago."""
        for relay in world.relays.values():
            await relay.drop()
        return await world.lost()

    await eventually(lost, "the names are gone, and each registry says so", 60, every=0.1)
    assert await world.instances() == SERVED

    world.resolver.point("127.0.0.1")
    await eventually(world.current, "all are read again", 60, every=0.1)
    assert await world.instances() == SERVED
