"""What takes a while to make is made beside the loop: everyone else is served meanwhile, with the state before."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.bridge import publishing as module
from isthmus.bridge.run import CRASHED, run
from isthmus.registry.thread import LARGE
from isthmus.xds.server.server import XdsServer
from isthmus.xds.translate import Mesh, Translation, translate
from isthmus.xds.translate import views as views_module
from isthmus.xds.translate.grpc_view import to_grpc_view
from tests.feature.client import CDS, EDS, LDS
from tests.feature.conftest import World
from tests.wait import eventually

REVIEWS = "outbound|80||reviews.default.mesh"
MANY = LARGE // 5


class Held:
    """Calls of a function stop here until they are let go; `threads` has the name of the thread of each."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._go = threading.Event()
        self.begun = threading.Event()
        self.threads: list[str] = []

    def __call__(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        if threading.current_thread() is not threading.main_thread():
            self.begun.set()
            assert self._go.wait(30)
        return self._function(*arguments)

    def let_go(self) -> None:
        self._go.set()


@contextmanager
def holding(
    monkeypatch: pytest.MonkeyPatch, place: object, function: Callable[..., Any]
) -> Generator[Held, None, None]:
    held = Held(function)
    monkeypatch.setattr(place, function.__name__, held)
    try:
        yield held
    finally:
        held.let_go()


def write_many(world: World, address: str = "10.9.0.1") -> None:
    """So many services that it takes a while to translate them."""
    services = [
        {"name": f"s{n}", "ports": [{"name": "http", "number": 80}], "instances": [{"id": "i", "address": address}]}
        for n in range(MANY)
    ]
    new = world.folder / ".many.new"
    new.write_text(json.dumps({"services": services}))
    new.rename(world.folder / "many.json")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Translation that is not done on the loop waits."""
    with holding(monkeypatch, module, translate) as held:
        yield held


async def running(world: World) -> None:
    world.write("reviews", "10.0.0.1")
    await world.started()


async def changed(world: World, *addresses: str) -> None:
    """The service has one address after the other, each as soon as the one before was read."""
    status = world.bridge.hub.statuses["local"]

    def differs_from(cursor: str) -> bool:
        return status.cursor != cursor

    for address in addresses:
        before = status.cursor
        world.write("reviews", address)
        await eventually(partial(differs_from, before), f"{address} is read")


async def test_a_large_catalog_is_translated_while_everyone_is_answered(world: World, held: Held) -> None:
    await running(world)
    client = await world.client()
    await client.converge()

    write_many(world)
    await eventually(held.begun.is_set, "translation has begun")
    status, _ = await world.get("/healthz")
    _, proxies = await world.get("/debug/proxies")
    late = await world.client(node="late")
    await late.subscribe(CDS)
    before = set((await late.take(CDS)).resources)
    held.let_go()

    assert (status, [p["node"] for p in proxies]) == (200, ["envoy"])
    assert before == {REVIEWS}
    assert len((await client.take(CDS)).resources) == MANY
    assert len((await late.take(CDS)).resources) == MANY


async def test_what_changes_meanwhile_comes_after_it_in_one_piece(world: World, held: Held) -> None:
    await running(world)
    client = await world.client()
    await client.converge()
    write_many(world)
    await eventually(held.begun.is_set, "translation has begun")

    await changed(world, *(f"10.0.0.{n}" for n in range(2, 6)))
    assert len(world.bridge.published.catalog.services) == 1, "the catalog is that of what is served"
    held.let_go()

    assert len((await client.take(CDS)).resources) == MANY
    shown = [(await client.take(EDS)).endpoints(REVIEWS)]
    assert shown == [{"10.0.0.5:80"}]
    assert [a for a in await client.barrier() if a.type_url == EDS] == []


async def test_a_small_change_is_made_at_once_whatever_the_size_of_the_rest(world: World, held: Held) -> None:
    """No thread is begun for it, which would cost more than the change itself."""
    held.let_go()
    world.folder.mkdir()
    write_many(world)
    await running(world)
    client = await world.client()
    await client.subscribe(EDS, [REVIEWS])
    await client.take(EDS)
    assert held.threads[-1] != threading.main_thread().name

    world.write("reviews", "10.0.0.2")
    await client.take(EDS)

    assert held.threads[-1] == threading.main_thread().name


async def test_the_bridge_stops_though_a_rebuild_is_under_way(world: World, held: Held) -> None:
    await running(world)
    write_many(world)
    await eventually(held.begun.is_set, "translation has begun")

    async with asyncio.timeout(10):
        await world.bridge.stop()

    with pytest.raises(asyncio.CancelledError):
        await world.bridge.failed()


async def test_a_crash_in_a_rebuild_ends_the_process_as_any_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(mesh: Mesh, before: Translation | None = None) -> Translation:
        assert threading.current_thread() is not threading.main_thread()
        raise KeyError("a bug")

    monkeypatch.setattr(module, "translate", crash)
    world.folder.mkdir()
    write_many(world)

    with capture_logs() as logs:
        status = await run(world.directory / "isthmus.yaml", world.config)

    assert status == CRASHED
    (crashed,) = (e for e in logs if e["event"] == "bridge.crashed")
    assert isinstance(crashed["exc_info"], KeyError)


async def test_the_first_grpc_client_waits_for_its_view_and_nobody_else_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running(world)
    with holding(monkeypatch, views_module, to_grpc_view) as held:
        caller = await world.client(node="caller", agent="gRPC Python")
        await caller.subscribe(LDS, ["reviews.default.mesh:80"])
        await eventually(held.begun.is_set, "its view is being made")
        envoy = await world.client()
        await envoy.converge()
        held.let_go()

        assert set((await caller.take(LDS)).resources) == {"reviews.default.mesh:80"}
        world.write("reviews", "10.0.0.2")
        await caller.subscribe(EDS, [REVIEWS])
        while (await caller.take(EDS)).endpoints(REVIEWS) != {"10.0.0.2:80"}:
            pass


class FanOut:
    """Stands for a fan-out that lasts until a test ends it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._over = asyncio.Event()
        self._over.set()

        async def fanned_out(_: XdsServer) -> None:
            await self._over.wait()

        monkeypatch.setattr(XdsServer, "fanned_out", fanned_out)

    def begin(self) -> None:
        self._over.clear()

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def fan_out(monkeypatch: pytest.MonkeyPatch) -> FanOut:
    return FanOut(monkeypatch)


async def test_what_changes_while_proxies_are_being_told_is_told_in_one_piece(world: World, fan_out: FanOut) -> None:
    """The first change after a rest is told at once, and the last one in any case."""
    await running(world)
    client = await world.client()
    await client.converge()
    first = world.bridge.server.snapshot.generation

    fan_out.begin()
    await changed(world, "10.0.0.2")
    assert (await client.take(EDS)).endpoints(REVIEWS) == {"10.0.0.2:80"}
    await changed(world, *(f"10.0.0.{n}" for n in range(3, 9)))
    fan_out.end()

    assert (await client.take(EDS)).endpoints(REVIEWS) == {"10.0.0.8:80"}
    assert world.bridge.server.snapshot.generation == first + 2


async def test_a_fan_out_that_does_not_end_is_not_waited_for_for_ever(
    world: World, fan_out: FanOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAN_OUT_SECONDS", 0.05)
    await running(world)
    client = await world.client()
    await client.converge()
    fan_out.begin()

    for address in ("10.0.0.2", "10.0.0.3"):
        await changed(world, address)
        assert (await client.take(EDS)).endpoints(REVIEWS) == {f"{address}:80"}
