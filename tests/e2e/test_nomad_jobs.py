"""The jobs of the repository on a real Nomad, from the same files that a user runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.consul import Consul
from tests.servers.nomad import Nomad, client_settings
from tests.servers.nomad_jobs import JOBS, NomadJobs, bookinfo, reviews, run_nomad
from tests.servers.upstream import Load, get
from tests.wait import eventually

pytestmark = pytest.mark.timeout(600)

NOTICED = 60
"""Seconds within which Nomad has done what it was told, and everybody knows."""


def wait_for_the_agent(isthmus: Path) -> None:
    """At the port that an agent has by default, until it can be called through. Raises AssertionError after a minute."""
    words = ["agent", "wait", "--for", "ready,dns,upstream:productpage", "--timeout", "60s"]
    done = subprocess.run([isthmus, *words], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr


@pytest.fixture
async def world() -> AsyncIterator[NomadJobs]:
    async with bookinfo() as world:
        yield world


async def test_bookinfo(world: NomadJobs) -> None:
    """The jobs run, and no request fails while one application is not well, while all of it is deployed anew, and while a client
    is drained. Random ports are one port of one service."""
    known = await world.service("reviews")
    assert [port["number"] for port in known["ports"]] == [9080]
    assert len({tuple(i["ports"].items()) for i in known["instances"]}) == 6

    async with world.load("productpage") as pages:
        await eventually(lambda: len(reviews(pages)) == 6, "all instances of reviews answer", NOTICED, every=1)
        await one_is_unwell(world, pages)
        assert pages.failures == [], "while an application was not well"
        await everything_is_replaced(world)
        await eventually(lambda: len(reviews(pages)) == 6, "all instances of reviews answer again", NOTICED, every=1)
        assert pages.failures == [], "while everything was replaced"
        await a_client_is_drained(world)
        await eventually(lambda: len(reviews(pages)) == 6, "and from one client", NOTICED, every=1)
    assert pages.failures == [], "while a client was drained"


async def test_bookinfo_in_consul_and_an_agent_per_client(tmp_path: Path) -> None:
    """Nomad registers in Consul, and the bridge reads both. What is no job calls by name, through the client's agent."""
    directory = Path(tempfile.mkdtemp(prefix="nj-"))
    consul = await Consul.start_dev(tmp_path / "consul")
    client = client_settings(directory)
    client["options"] = {name: value.replace("consul,", "") for name, value in client["options"].items()}
    settings = {"consul": {"address": consul.address.removeprefix("http://")}, "client": client}
    nomad = await Nomad.start_one(directory, settings)
    try:
        world = NomadJobs(nomad)
        bridge = {"nomad_address": nomad.address, "consul_address": consul.address, "replicas": 1}
        await world.run("isthmus", bridge)
        gateway = {"envoy": world.envoy, "gateway_port": world.gateway_port, "provider": "consul"}
        await world.run("gateway", gateway)
        await world.run("bookinfo", {"envoy": world.envoy, "provider": "consul"})
        async with world.load("productpage") as pages:
            await eventually(lambda: len(reviews(pages)) == 3, "all instances of reviews answer", NOTICED, every=1)
            pages.failures.clear()  # those from before the last service was known to all
            await eventually(lambda: len(reviews(pages)) == 3, "and again", NOTICED, every=1)
        known = await world.service("reviews")
        await world.run("agent", {"envoy": world.envoy})
        await asyncio.to_thread(wait_for_the_agent, world.isthmus)
        status, page = await get(9080, "productpage:9080", "127.64.0.1")
    finally:
        nomad.stop()
        consul.stop()
        shutil.rmtree(directory, ignore_errors=True)
    assert pages.failures == []
    assert (status, json.loads(page)["title"]) == (200, "The Comedy of Errors")
    assert {instance["origin"] for instance in known["instances"]} == {"consul"}
    assert [port["number"] for port in known["ports"]] == [9080]


async def one_is_unwell(world: NomadJobs, pages: Load) -> None:
    """No request goes to an application that says so, and again when it is well."""
    name, application = await world.an_instance_of("reviews-v1")
    os.kill(application, signal.SIGUSR1)
    await eventually(lambda: name not in reviews(pages), "no request goes to it", NOTICED, every=1)
    os.kill(application, signal.SIGUSR1)
    await eventually(lambda: name in reviews(pages), "it is back", NOTICED, every=1)


async def everything_is_replaced(world: NomadJobs) -> None:
    """A deployment leaves no allocation of the one before."""
    before = {a["ID"] for a in await world.nomad.allocations("bookinfo")}
    await world.run_bookinfo(2)
    after = {a["ID"] for a in await world.nomad.allocations("bookinfo")}
    assert len(after) == len(before) == 12
    assert not before & after


async def a_client_is_drained(world: NomadJobs) -> None:
    """Everything moves off the client that does not run the gateway."""
    (gateway,) = await world.nomad.allocations("gateway")
    node = next(n["ID"] for n in await world.nomad.get("/v1/nodes") if n["ID"] != gateway["NodeID"])
    await world.cli("node", "drain", "-enable", "-yes", node)

    async def moved() -> bool:
        allocations = await world.nomad.allocations("bookinfo")
        return len(allocations) == 12 and all(a["NodeID"] == gateway["NodeID"] for a in allocations)

    await eventually(moved, "everything runs on the other client", NOTICED, every=0.5)


@pytest.mark.parametrize("driver", ["docker", "exec", "raw_exec"])
@pytest.mark.parametrize("provider", ["nomad", "consul"])
@pytest.mark.parametrize("job", sorted(path.name for path in JOBS.glob("*.hcl")))
def test_valid(job: str, driver: str, provider: str) -> None:
    """Nomad finds nothing wrong with any job, whatever runs it."""
    variables = [f"-var=driver={driver}"]
    if 'variable "provider"' in (JOBS / job).read_text():
        variables.append(f"-var=provider={provider}")

    assert "validation successful" in run_nomad("http://127.0.0.1:1", "job", "validate", *variables, JOBS / job)
