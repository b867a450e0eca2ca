"""A Consul whose answers are refusals, of the wrong size, or at odd indexes: real, behind a relay that says them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from isthmus.bridge.config import ConsulRegistry
from tests.fault.served import RECOVERED, Served, served
from tests.servers.consul import Consul
from tests.servers.http_relay import Answer, HttpRelay, refusing
from tests.wait import eventually

LIST, TROUBLES, WEB = "/v1/catalog/services", "/v1/health/state/any", "/v1/health/service/web"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = asyncio.run(Consul.start_dev(tmp_path_factory.mktemp("consul")))
    yield consul
    consul.stop()


@pytest.fixture
async def consul(shared: Consul) -> AsyncIterator[Consul]:
    """Two instances of web, and one of api."""
    for n in (1, 2):
        await put(shared, n)
    await shared.catalog_register("n1", "api", "api-1", Address="10.0.1.1")
    yield shared
    await shared.wipe()


@pytest.fixture
async def relay(consul: Consul) -> AsyncIterator[HttpRelay]:
    async with HttpRelay(consul.address) as relay:
        yield relay


@pytest.fixture
async def world(relay: HttpRelay, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, ConsulRegistry(name="consul", address=relay.address, heartbeat=0.5)) as world:
        await eventually(lambda: knows(world, 2), "both instances are in the catalog", 20)
        yield world


async def put(consul: Consul, n: int) -> None:
    await consul.catalog_register("n1", "web", f"web-{n}", Address=f"10.0.0.{n}")


def knows(world: Served, count: int) -> bool:
    return set(world.healths("web")) == {f"10.0.0.{n}" for n in range(1, count + 1)}


def keeps(world: Served) -> bool:
    """Whether nobody is lost. A query that was under way when the fault began may still bring a change."""
    return set(world.healths("web")) >= {"10.0.0.1", "10.0.0.2"} and bool(world.healths("api"))


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (refusing(500, "No cluster leader"), "500 No cluster leader"),
        (refusing(500, "rpc error making call: EOF"), "500 rpc error making call: EOF"),
        (refusing(503, ""), "503"),
        (refusing(429, "Your IP is issuing too many concurrent connections"), "http_max_conns_per_client"),
    ],
    ids=["no leader", "cut off", "unavailable", "too many"],
)
async def test_a_storm_of_refusals(world: Served, relay: HttpRelay, consul: Consul, refusal: Answer, said: str) -> None:
    """Everything is refused: it is asked less and less often, and in Consul's own words."""
    relay.instead["/*"] = refusal
    await put(consul, 3)
    await world.until_stale(said)
    before = relay.asked.total()
    attempts = world.status.errors
    await eventually(lambda: world.status.errors >= attempts + 2, "two more attempts", 30)
    assert relay.asked.total() - before < 10, "nobody is hammered"
    assert keeps(world)
    relay.instead.clear()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)


async def test_one_service_that_cannot_be_read(world: Served, relay: HttpRelay, consul: Consul) -> None:
    """All that is known is stale rather than one service smaller."""
    relay.instead[WEB] = refusing(500, "rpc error making call: EOF")
    await put(consul, 3)
    await world.until_stale(f"GET {WEB}: 500")
    assert keeps(world)
    relay.instead.clear()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)


async def test_one_blocking_query_whose_answer_trickles(world: Served, relay: HttpRelay, consul: Consul) -> None:
    """Its wait may be ten minutes; when it is answered, the answer is there soon, or is none."""
    relay.instead[WEB] = relay.trickling(0.05, start=10)
    await put(consul, 3)  # answers the query that is under way, which came before
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
    await eventually(lambda: relay.asked[WEB] >= 3, "the next query")
    await put(consul, 4)
    await world.until_stale(f"GET {WEB}")
    assert knows(world, 3)
    relay.instead.clear()
    await world.until_current()
    await eventually(lambda: knows(world, 4), "the change arrives", RECOVERED)


@pytest.mark.parametrize("path", [LIST, TROUBLES, WEB])
async def test_half_an_answer(world: Served, relay: HttpRelay, consul: Consul, path: str) -> None:
    """With status 200 and the right length."""

    async def half(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'[{"Node": {"Nod', headers={"X-Consul-Index": "7"})

    relay.instead[path] = half
    await put(consul, 3)
    statuses = itertools.cycle(("critical", "warning"))

    async def noticed() -> bool:
        """With a check that turns, which is what one of the three queries waits for."""
        await consul.register("checked", ttl_status=next(statuses))
        return world.status.stale_since is not None

    await eventually(noticed, "it is reported stale", 30, every=0.2)
    assert f"GET {path}" in world.status.error
    assert "not what Consul documents" in world.status.error
    assert keeps(world)
    relay.instead.clear()
    await world.until_current()
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)


@pytest.mark.parametrize("index", ["0", "1"])
async def test_an_index_that_says_nothing(world: Served, relay: HttpRelay, consul: Consul, index: str) -> None:
    """Servers and proxies exist that answer with 0. It is asked all the same, and not without a pause."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await relay.forward(request, {"X-Consul-Index": index})

    relay.instead["/v1/*"] = answer
    await world.until_stale("went back")
    await world.until_current()
    clock = asyncio.get_running_loop().time
    asked, began = relay.asked.total(), clock()
    await put(consul, 3)
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
    await eventually(lambda: clock() - began > 2, "two seconds", RECOVERED)
    # Each of two loops and two watched services has 100 turns at once, and then 10 a second.
    assert relay.asked.total() - asked < 4 * (100 + 10 * (clock() - began)) + 50


async def test_an_index_that_runs_without_any_change(world: Served, relay: HttpRelay, consul: Consul) -> None:
    """Each answer at once, and with a higher one: the loop is held to its pace, nothing is published, nobody is lost."""
    index = 10_000

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal index
        index += 1
        body = await consul.request("GET", request.path)
        return web.Response(body=body, headers={"X-Consul-Index": str(index)})

    generation = world.bridge.server.snapshot.generation
    relay.instead[LIST] = answer
    await put(consul, 3)
    await eventually(lambda: knows(world, 3), "the change arrives", RECOVERED)
    await eventually(lambda: relay.asked[LIST] > 150, "more than a burst of turns", 30)
    asked = relay.asked[LIST]
    began = asyncio.get_running_loop().time()
    await eventually(lambda: relay.asked[LIST] >= asked + 20, "20 more turns", 30)
    assert asyncio.get_running_loop().time() - began > 1, "about ten turns a second"
    assert world.status.stale_since is None
    assert world.bridge.server.snapshot.generation <= generation + 1
