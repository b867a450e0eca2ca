"""What the adapter makes of a Consul that fails, lags or goes back, played by a server that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
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
    service. `headers` are on every answer to a blocking query about a service, `hidden` services have no instance in these.
    `nodes` are the indexes at which nodes were registered, at `node_index`. All instances are on the node n1; what
    `asked_nodes_for_services` holds is whether each question about a node was for more than its index.
    """

    def __init__(self, **ports: int) -> None:
        self.ports = ports
        self.index = 10
        self.indexes = dict.fromkeys(ports, 10)
        self.failures: dict[str, int] = {}
        self.asked: dict[str, list[int]] = {name: [] for name in ports}
        self.list_fails = False
        self.checks_fail = False
        self.headers: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.nodes = {"n1": 10}
        self.node_index = 10
        self.asked_nodes = 0
        self.asked_nodes_for_services: list[bool] = []
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

    async def say_nodes(self, index: int, **nodes: int) -> None:
        """These are the nodes, registered at these indexes."""
        async with self._said:
            self.nodes, self.node_index = nodes, index
            self._said.notify_all()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = int(request.query.get("index", 0))
        match request.path.strip("/").split("/"):
            case ["v1", "catalog", "services"]:
                await self._blocked(lambda: asked == self.index and not self.list_fails)
                if self.list_fails:
                    return web.Response(status=500, text="No cluster leader")
                return self._json({name: [] for name in self.ports}, self.index)
            case ["v1", "catalog", "nodes"]:
                self.asked_nodes += 1
                await self._blocked(lambda: asked == self.node_index)
                return self._json([{"Node": n, "ModifyIndex": i} for n, i in self.nodes.items()], self.node_index)
            case ["v1", "catalog", "node-services", name]:
                self.asked_nodes_for_services.append("filter" not in request.query)
                on_it = [{"ID": n, "Service": n, "ModifyIndex": self.indexes[n]} for n in self.ports if name == "n1"]
                body = {"Services": [] if "filter" in request.query else on_it}
                return self._json(body, max(self.indexes.values()) if on_it else 10)
            case ["v1", "health", "state", "any"]:
                await self._blocked(lambda: asked > 0)
                if self.checks_fail and "filter" not in request.query:
                    return web.Response(status=500, text="too many checks")
                return self._json([], 10)
            case ["v1", "health", "service", name]:
                self.asked[name].append(asked)
                await self._blocked(lambda: asked == self.indexes[name])
                if self.failures.get(name):
                    self.failures[name] -= 1
                    return web.Response(status=500, text="rpc error: EOF")
                entry = {"Node": {"Node": "n1", "Address": "10.0.0.1"}}
                entry["Service"] = {"ID": name, "Service": name, "Port": self.ports[name]}  # type: ignore[dict-item]
                if asked:
                    return self._json([] if name in self.hidden else [entry], self.indexes[name], self.headers)
                return self._json([entry], self.indexes[name])
        raise AssertionError(f"{request.path} is not in the script")

    async def _blocked(self, unchanged: Callable[[], bool]) -> None:
        async with self._said:
            await self._said.wait_for(lambda: not unchanged())

    def _json(self, body: object, index: int, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.json_response(body, headers={"X-Consul-Index": str(index)} | dict(headers or {}), dumps=json.dumps)


@contextlib.asynccontextmanager
async def reading(
    consul: ScriptedConsul, max_connections: int = 160, max_reads_per_minute: int = 20_000
) -> AsyncIterator[tuple[Following, OriginStatus]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", consul.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        stats = OriginStatus(Origin("dc1", "consul"))
        config = ConsulConfig(
            address=f"http://127.0.0.1:{server.port}",
            max_connections=max_connections,
            max_reads_per_minute=max_reads_per_minute,
        )
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


async def test_an_answer_that_cannot_tell_whether_it_was_filtered_removes_nothing_unless_it_is_confirmed() -> None:
    """Consul's streaming backend answers blocking queries, and does not say what ACLs take away."""
    consul = ScriptedConsul(web=80, api=81)
    consul.headers = {"X-Consul-Default-ACL-Policy": "deny", "X-Consul-Query-Backend": "streaming"}
    consul.hidden = {"web"}
    async with reading(consul) as (seen, _):
        await consul.say("web", 80, 20)
        await eventually(lambda: consul.asked["web"][-2:] == [0, 20], "it is asked for certain")
        await consul.say("api", 82, 21)
        await eventually(lambda: seen.addresses("api") == {"10.0.0.1": 82}, "a change of another service")
        assert seen.addresses("web") == {"10.0.0.1": 80}


async def test_where_there_are_no_acls_an_answer_is_taken_as_it_is() -> None:
    consul = ScriptedConsul(web=80)
    consul.headers = {"X-Consul-Query-Backend": "streaming"}
    consul.hidden = {"web"}
    async with reading(consul) as (seen, _):
        await consul.say("web", 80, 20)
        await eventually(lambda: not seen.service("web"), "the instance is gone")
        assert consul.asked["web"].count(0) == 1


async def test_all_services_are_read_when_all_checks_cannot_be() -> None:
    """They may be more than an answer may hold: that is no failure of the registry."""
    consul = ScriptedConsul(web=80, api=81)
    consul.checks_fail = True
    async with reading(consul, max_connections=23) as (seen, stats):
        await consul.say("web", 82, 20)
        await consul.say_list(20)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 82}, "the change")
        assert stats.errors >= 1
        assert not seen.error


UNWATCHED = 23
"""Connections with which no service has a blocking query of its own."""


async def test_a_node_that_changes_has_the_services_on_it_read() -> None:
    """All of them change by one write, so one that is known to have does not explain it."""
    consul = ScriptedConsul(**{f"svc-{n}": 80 for n in range(20)})
    async with reading(consul, UNWATCHED) as (seen, _):
        consul.ports = dict.fromkeys(consul.ports, 81)
        consul.indexes = dict.fromkeys(consul.ports, 11)
        await consul.say_nodes(11, n1=11)
        await eventually(lambda: all(seen.addresses(n) == {"10.0.0.1": 81} for n in consul.ports), "all were read")
        reads = sum(len(asked) for asked in consul.asked.values())
        await consul.say_nodes(12, n1=11, n2=12)
        await consul.say_nodes(13, n1=11, n2=12, n3=13)
        await eventually(lambda: consul.asked_nodes >= 3, "the list of nodes was read again")
        assert sum(len(asked) for asked in consul.asked.values()) == reads, "a node without services concerns none"


@pytest.mark.parametrize("nodes", [1, 3])
async def test_a_sweep_takes_an_equal_index_for_an_equal_service_and_a_hint_does_not(nodes: int) -> None:
    """Hints name what changed, so what they name is looked at whatever its index is. Of nodes, too, where they are fewer."""
    consul = ScriptedConsul(web=80, api=81)
    consul.nodes = {f"n{n}": 10 for n in range(1, nodes + 1)}
    async with reading(consul, UNWATCHED) as (seen, stats):
        before = stats.reads
        consul.ports["web"] = 82  # at the index that it has already
        await consul.say("api", 83, 20)
        await consul.say_list(20)
        await eventually(lambda: seen.addresses("api") == {"10.0.0.1": 83}, "a sweep has read all")
        await eventually(lambda: stats.reads >= before + 4, "the list, all checks, and both services")
        assert seen.addresses("web") == {"10.0.0.1": 80}
        assert consul.asked_nodes_for_services == ([False, True] if nodes == 1 else [])
        await consul.say_nodes(21, n1=21)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 82}, "what is named is read in full")
        assert stats.errors == 0


async def test_an_audit_looks_at_everything_whatever_its_index() -> None:
    consul = ScriptedConsul(web=80)
    app = web.Application()
    app.router.add_get("/{path:.*}", consul.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        stats = OriginStatus(Origin("dc1", "consul"))
        adapter = ConsulAdapter(stats.origin, ConsulConfig(address=f"http://127.0.0.1:{server.port}"), stats)
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            consul.ports["web"] = 82
            listed = await adapter.listing()
        assert [i.ports["http"] for s in listed.services.values() for i in s.instances] == [82]


async def test_what_is_named_is_read_while_a_sweep_waits_for_the_budget() -> None:
    """Of 480 reads a minute 120 may be made at once, and sweeps leave half of these to what is more urgent."""
    consul = ScriptedConsul(**{f"svc-{n:02}": 80 for n in range(60)})
    async with reading(consul, UNWATCHED, 480) as (seen, stats):
        await consul.say("svc-30", 80, 20)
        await consul.say_list(30)  # nothing explains it, so everything is swept
        await eventually(lambda: stats.delays, "the sweep has to wait")
        consul.ports = dict.fromkeys(consul.ports, 81)
        await consul.say_nodes(31, n1=31)
        await eventually(
            lambda: len({n for n in consul.ports if seen.addresses(n) == {"10.0.0.1": 81}}) >= 20, "news", 5
        )
        assert stats.reads <= 130
