"""The scripted registries of the benchmark: what wakes which query, and that the adapters understand them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import aiohttp
import pytest

from bench.registry.connections import connections
from bench.registry.consul import FIRST_INDEX, ScriptedConsul
from bench.registry.eureka import ScriptedEureka
from bench.registry.lines import Child
from bench.registry.nomad import ScriptedNomad
from bench.registry.population import Fleet, Kind, State
from bench.registry.reader import shows, to_adapter
from bench.registry.web import Web
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.origin import OriginStatus
from tests.servers.process import free_port
from tests.wait import eventually

SIZE = 3
LIST, TROUBLES = "/v1/catalog/services", "/v1/health/state/any?filter=Status%20!%3D%20%22passing%22"
ITS_SERVICE, ANOTHER = "/v1/health/service/bench-0001", "/v1/health/service/bench-0002"


@contextlib.asynccontextmanager
async def serving(registry: ScriptedConsul | ScriptedEureka | ScriptedNomad) -> AsyncGenerator[tuple[Web, str], None]:
    web = Web(registry.handle)
    port = await web.start()
    try:
        yield web, f"http://127.0.0.1:{port}"
    finally:
        await web.close()


@pytest.mark.parametrize(
    ("kind", "woken"),
    [("health", {TROUBLES, ITS_SERVICE}), ("weight", {LIST, ITS_SERVICE}), ("address", {LIST, ITS_SERVICE})],
)
async def test_a_change_in_consul_wakes_the_queries_that_it_wakes_in_the_real_one(kind: Kind, woken: set[str]) -> None:
    """As measured: a check that turns wakes the checks, another weight or address the list, and either its service."""
    consul = ScriptedConsul(Fleet(SIZE))
    paths = (LIST, TROUBLES, ITS_SERVICE, ANOTHER)
    async with serving(consul) as (web, address), aiohttp.ClientSession(address) as session:

        async def index_of(path: str, index: int) -> str:
            query = f"{'&' if '?' in path else '?'}index={index}&wait=500ms"
            async with session.get(path + query) as answer:
                await answer.read()
                return answer.headers["X-Consul-Index"]

        asked = [asyncio.create_task(index_of(path, FIRST_INDEX)) for path in paths]
        await eventually(lambda: web.requests == len(paths), "all are asked")
        consul.put(Fleet(SIZE).change(1, 4, kind))
        answers = dict(zip(paths, await asyncio.gather(*asked), strict=True))
        assert {path for path, index in answers.items() if int(index) > FIRST_INDEX} == woken
        assert web.most_connections == len(paths)


async def test_the_checks_of_consul_that_do_not_pass_are_those_of_the_instances_that_fail() -> None:
    consul = ScriptedConsul(Fleet(SIZE))
    async with serving(consul) as (_, address), aiohttp.ClientSession(address) as session:
        consul.put(State(1, 4, healthy=False))
        consul.put(State(1, 4))
        consul.put(State(2, 1, healthy=False))
        async with session.get(TROUBLES) as answer:
            failing = json.loads(await answer.read())
        assert [(c["ServiceID"], c["Status"]) for c in failing] == [("bench-0002-1", "critical")]


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _snapshots(kind: str, options: Mapping[str, Any]) -> AsyncGenerator[Snapshot, None]:
    adapter = to_adapter(OriginStatus(Origin(kind, kind)), options)
    async with contextlib.aclosing(adapter.snapshots()) as snapshots:  # type: ignore[type-var]
        async for snapshot in snapshots:
            yield snapshot


@pytest.mark.parametrize("kind", ["consul", "eureka", "nomad"])
async def test_an_adapter_reads_all_and_hears_of_every_change(kind: str) -> None:
    """Otherwise the benchmark would measure something that no registry does."""
    listen = f"127.0.0.1:{free_port()}"
    scripts: dict[str, Callable[[], ScriptedConsul | ScriptedEureka | ScriptedNomad]] = {
        "consul": lambda: ScriptedConsul(Fleet(SIZE)),
        "eureka": lambda: ScriptedEureka(Fleet(SIZE), f"http://{listen}"),
        "nomad": lambda: ScriptedNomad(Fleet(SIZE)),
    }
    registry = scripts[kind]()
    async with contextlib.AsyncExitStack() as stack:
        _, address = await stack.enter_async_context(serving(registry))
        options: dict[str, Any] = {"address": address}
        if isinstance(registry, ScriptedEureka):
            options = {"addresses": [f"{address}/eureka"], "feed": {"listen": listen}}
            replicating = asyncio.create_task(registry.replicate())
            stack.push_async_callback(_end, replicating)
        snapshots = await stack.enter_async_context(contextlib.aclosing(_snapshots(kind, options)))
        async with asyncio.timeout(10):
            first = await anext(snapshots)
            assert [len(service.instances) for service in first.services.values()] == [10] * SIZE
            assert first.quarantined == ()
            fleet = Fleet(SIZE)
            for change in (fleet.change(1, 4, "health"), fleet.change(1, 5, "weight"), fleet.change(2, 6, "address")):
                registry.put(change)
                while not any(
                    shows(instance, change)
                    for service in (await anext(snapshots)).services.values()
                    for instance in service.instances
                ):
                    pass


async def test_a_server_in_a_process_of_its_own_does_what_it_is_told_and_ends_with_its_pipe() -> None:
    child = await Child.start("bench.registry.server", "consul", str(SIZE))
    try:
        address = f"http://127.0.0.1:{(await child.greeting(20))['port']}"
        await child.ask(put=[State(1, 4, healthy=False)])
        async with aiohttp.ClientSession(address) as session, session.get(ITS_SERVICE) as answer:
            statuses = [entry["Checks"][1]["Status"] for entry in json.loads(await answer.read())]
        assert statuses.count("critical") == 1
        assert (await child.ask(count=True))["requests"] == 1
    finally:
        await child.close()
    with pytest.raises(RuntimeError, match=r"bench\.registry\.server consul has ended"):
        await child.ask(count=True)


async def test_the_connections_of_a_process_to_a_port_are_counted() -> None:
    async with serving(ScriptedConsul(Fleet(SIZE))) as (web, address), aiohttp.ClientSession(address) as session:
        port = int(address.rpartition(":")[2])
        assert connections(os.getpid(), port) == 0
        async with session.get(LIST) as answer:
            await answer.read()
        assert connections(os.getpid(), port) == web.most_connections == 1


async def test_a_client_that_closes_a_connection_and_opens_another_has_one() -> None:
    """The server may hear of the end after it has heard of the beginning."""
    async with serving(ScriptedConsul(Fleet(SIZE))) as (web, address):
        port = int(address.rpartition(":")[2])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /v1/agent/self HTTP/1.1\r\n\r\n")
        await eventually(lambda: web.requests == 20, "all have been heard")
        assert web.most_connections <= 1
        async with aiohttp.ClientSession(address) as one, aiohttp.ClientSession(address) as another:
            for session in (one, another):
                async with session.get(LIST) as answer:
                    await answer.read()
            assert web.most_connections == 2
