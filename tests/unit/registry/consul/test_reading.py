"""What the adapter makes of a Consul that fails, lags or goes back, played by a server that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.wait import eventually


class ScriptedConsul:
    """One instance per service, at the port that `ports` says; `say` makes blocked queries return.

    `failures` counts the requests about each service that are still to fail. `asked` holds the index of each query about a
    service.
    """

    def __init__(self, **ports: int) -> None:
        self.ports = ports
        self.index = 10
        self.indexes = dict.fromkeys(ports, 10)
        self.failures: dict[str, int] = {}
        self.asked: dict[str, list[int]] = {name: [] for name in ports}
        self.list_fails = False
        self._said = asyncio.Condition()

    async def say(self, service: str, port: int, index: int) -> None:
        """The service's instance has another port, at this index of its own."""
        async with self._said:
            self.ports[service], self.indexes[service] = port, index
            self._said.notify_all()

    async def say_list(self, index: int, *, fails: bool = False) -> None:
        """The list of services has another index."""
        async with self._said:
            self.index, self.list_fails = index, fails
            self._said.notify_all()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = int(request.query.get("index", 0))
        match request.path.strip("/").split("/"):
            case ["v1", "catalog", "services"]:
                await self._blocked(lambda: asked == self.index and not self.list_fails)
                if self.list_fails:
                    return web.Response(status=500, text="No cluster leader")
                return self._json({name: [] for name in self.ports}, self.index)
            case ["v1", "health", "state", "any"]:
                await self._blocked(lambda: asked > 0)
                return self._json([], 10)
            case ["v1", "health", "service", name]:
                self.asked[name].append(asked)
                await self._blocked(lambda: asked == self.indexes[name])
                if self.failures.get(name):
                    self.failures[name] -= 1
                    return web.Response(status=500, text="rpc error: EOF")
                entry = {"Node": {"Node": "n1", "Address": "10.0.0.1"}}
                entry["Service"] = {"ID": name, "Service": name, "Port": self.ports[name]}  # type: ignore[dict-item]
                return self._json([entry], self.indexes[name])
        raise AssertionError(f"{request.path} is not in the script")

    async def _blocked(self, unchanged: Callable[[], bool]) -> None:
        async with self._said:
            await self._said.wait_for(lambda: not unchanged())

    def _json(self, body: object, index: int) -> web.Response:
        return web.json_response(body, headers={"X-Consul-Index": str(index)}, dumps=json.dumps)


@contextlib.asynccontextmanager
async def reading(consul: ScriptedConsul) -> AsyncIterator[tuple[Following, OriginStatus]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", consul.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        stats = OriginStatus(Origin("dc1", "consul"))
        config = ConsulConfig(address=f"http://127.0.0.1:{server.port}")
        async with following(ConsulAdapter(stats.origin, config, stats)) as seen:
            await eventually(lambda: seen.snapshots or seen.error, "a first snapshot or an error")
            yield seen, stats


async def test_a_service_that_fails_once_is_read_again() -> None:
    consul = ScriptedConsul(web=80, api=81)
    consul.failures["web"] = 1
    async with reading(consul) as (seen, stats):
        assert len(seen.latest.services) == 2
        assert stats.errors == 1


async def test_a_service_that_goes_on_failing_ends_the_reading_and_is_named() -> None:
    """Nothing is shown without it: stale beats partial."""
    consul = ScriptedConsul(web=80, api=81)
    consul.failures["web"] = 3
    async with reading(consul) as (seen, stats):
        assert "GET /v1/health/service/web: 500 rpc error: EOF" in str(seen.error)
        assert seen.snapshots == []
        assert stats.errors == 3


async def test_a_list_that_fails_once_ends_the_reading() -> None:
    consul = ScriptedConsul(web=80)
    async with reading(consul) as (seen, _):
        await consul.say_list(11, fails=True)
        await eventually(lambda: "No cluster leader" in str(seen.error), "the error")
        assert len(seen.snapshots) == 1


async def test_a_list_whose_index_went_back_ends_the_reading() -> None:
    """The next one begins with a complete listing, and the guard sees that it does."""
    consul = ScriptedConsul(web=80)
    async with reading(consul) as (seen, _):
        await consul.say_list(3)
        await eventually(lambda: "went back from 10 to 3" in str(seen.error), "the error")
        assert len(seen.snapshots) == 1


async def test_what_a_server_says_that_is_behind_is_not_taken_and_asked_again() -> None:
    """Three servers may be at three indexes; the older one's answer would bring the past back for a moment."""
    consul = ScriptedConsul(web=80)
    async with reading(consul) as (seen, _):
        await consul.say("web", 81, 20)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 81}, "the change")
        await eventually(lambda: consul.asked["web"][-1] == 20, "it waits for the next one")
        before = len(consul.asked["web"])
        await consul.say("web", 80, 15)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 80}, "what it says twice is taken")
        assert consul.asked["web"][before : before + 1] == [0]
        assert not seen.error


async def test_an_index_that_moves_without_a_change_is_no_news() -> None:
    consul = ScriptedConsul(web=80)
    async with reading(consul) as (seen, stats):
        await consul.say("web", 80, 20)
        await consul.say_list(20)
        await eventually(lambda: consul.asked["web"][-1] == 20 and stats.wake_ups >= 2, "both came back")
        assert len(seen.snapshots) == 1
        await consul.say("web", 82, 21)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 82}, "a change")
        assert len(seen.snapshots) == 2
