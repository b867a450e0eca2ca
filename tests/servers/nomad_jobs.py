"""The jobs of the repository on a real Nomad, from the same files that a user runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests import peers
from tests.servers.nomad import Nomad, find_nomad
from tests.servers.peers import peer_binary
from tests.servers.process import free_port
from tests.servers.upstream import Load, constant_load

JOBS = Path(__file__).resolve().parents[2] / "nomad"


class NomadJobs:
    """The jobs of the repository on a Nomad."""

    def __init__(self, nomad: Nomad) -> None:
        self.nomad = nomad
        self.gateway_port = free_port()
        self.envoy = peer_binary("envoy", peers.ENVOYS[-1])
        self.isthmus = Path(sys.executable).with_name("isthmus")

    async def run(self, job: str, variables: Mapping[str, object]) -> str:
        """`nomad job run`, which waits until the deployment is over; what it prints."""
        settings = {"driver": "raw_exec", "command": self.isthmus, **variables}
        words = [f"-var={name}={value}" for name, value in settings.items()]
        return await self.cli("job", "run", *words, JOBS / f"{job}.nomad.hcl")

    async def run_bookinfo(self, release: int) -> str:
        """Deploy Bookinfo, with Envoy beside each instance."""
        return await self.run("bookinfo", {"envoy": self.envoy, "count": 2, "release": release})

    async def cli(self, *words: str | Path) -> str:
        """What a `nomad` command prints (`run_nomad`)."""
        return await asyncio.to_thread(run_nomad, self.nomad.address, *words)

    async def service(self, name: str) -> Any:
        """A service, as one of the bridges knows it."""
        (bridge, *_) = await self.nomad.get("/v1/service/isthmus")
        url = f"http://{bridge['Address']}:{bridge['Port']}/debug/catalog"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            services = (await answer.json())["services"]
        return next(service for service in services if service["key"]["name"] == name)

    async def an_instance_of(self, group: str) -> tuple[str, int]:
        """What one application of a group calls itself, and its process, which is well or not at each SIGUSR1."""
        allocation = next(a["ID"] for a in await self.nomad.allocations("bookinfo") if a["TaskGroup"] == group)
        name = f"{group}-{allocation[:8]}"
        return name, _process(name)

    def load(self, host: str) -> AbstractAsyncContextManager[Load]:
        """Requests through the gateway."""
        return constant_load(self.gateway_port, host, 2)


@asynccontextmanager
async def bookinfo() -> AsyncIterator[NomadJobs]:
    """A Nomad of two clients that runs the bridge and Bookinfo, two instances of each service."""
    # Sockets are made below it, whose paths may not be long.
    directory = Path(tempfile.mkdtemp(prefix="nj-"))
    nomad = await Nomad.start_one(directory / "0")
    try:
        await nomad.add_client(directory / "1", "node-1")
        await nomad.ready(2)
        jobs = NomadJobs(nomad)
        await jobs.run("isthmus", {"nomad_address": nomad.address})
        await jobs.run("gateway", {"envoy": jobs.envoy, "gateway_port": jobs.gateway_port})
        await jobs.run_bookinfo(1)
        yield jobs
    finally:
        nomad.stop()
        shutil.rmtree(directory, ignore_errors=True)


def reviews(load: Load) -> set[str]:
    """The instances of reviews that answered a load since the last call."""
    return {json.loads(page)["reviews"]["instance"] for page in load.recent()}


def run_nomad(address: str, *words: str | Path) -> str:
    """What a `nomad` command prints. Raises AssertionError when it fails or takes five minutes."""
    command = ["nomad", *map(str, words)]
    try:
        done = _ask_nomad(address, *words)
    except subprocess.TimeoutExpired as e:
        state = "".join(
            _ask_nomad(address, *about).stdout for about in (("job", "status"), ("job", "status", "bookinfo"))
        )
        raise AssertionError(f"{' '.join(command)} takes longer than {e.timeout} s:\n{state}") from e
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def _ask_nomad(address: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NOMAD_ADDR": address}
    return subprocess.run(
        [find_nomad(), *words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def _process(name: str) -> int:
    """The process of an application, by what it is called."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().decode().split("\0")
            if name in words and "app" in (directory / "cwd").readlink().parts:
                return int(directory.name)
        except OSError:
            continue  # it has ended meanwhile
    raise LookupError(name)
