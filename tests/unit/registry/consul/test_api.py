"""Consul over HTTP, against a server that says what a script tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from isthmus.registry.adapter import AdapterError
from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul import api as consul_api
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.budget import ReadBudget
from isthmus.registry.consul.trust import RefusedError
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOKEN = "b1gs3cret"  # noqa: S105 - of a scripted server
HEADERS = {"X-Consul-Index": "7", "X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0"}


class Scripted:
    """One API client and what its server saw."""

    def __init__(self, api: ConsulApi, stats: OriginStatus, requests: list[web.BaseRequest]) -> None:
        self.api = api
        self.stats = stats
        self.requests = requests


def mk_api(config: ConsulConfig, stats: OriginStatus) -> ConsulApi:
    return ConsulApi(config, ReadBudget(config.max_reads_per_minute, stats), stats, config.max_connections)


@contextlib.asynccontextmanager
async def scripted(handler: Handler, **options: object) -> AsyncIterator[Scripted]:
    """A server that answers everything with `handler`, and a client of it."""
    requests: list[web.BaseRequest] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        stats = OriginStatus(Origin("dc1", "consul"))
        config = ConsulConfig(address=f"http://127.0.0.1:{server.port}", token=TOKEN, heartbeat=0.1)
        api = mk_api(_with(config, options), stats)
        try:
            yield Scripted(api, stats, requests)
        finally:
            await api.close()


def _with(config: ConsulConfig, options: Mapping[str, object]) -> ConsulConfig:
    return ConsulConfig(**{f: getattr(config, f) for f in config.__struct_fields__} | dict(options))


def answering(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=HEADERS if headers is None else headers)

    return answer


async def test_an_answer_carries_what_its_headers_say() -> None:
    async with scripted(answering(body=b'{"web": ["v1"]}')) as s:
        answer = await s.api.names()
    assert answer.value == {"web": frozenset({"v1"})}
    assert (answer.index, answer.current, answer.filtered) == (7, True, False)
    assert (s.stats.reads, s.stats.errors, s.stats.wake_ups) == (1, 0, 0)


async def test_the_query_says_who_asks_and_for_what() -> None:
    async with scripted(answering(body=b"[]"), datacenter="dc2", namespace="team-a", partition="p1") as s:
        await s.api.watch("web", 5, 600)
    (request,) = s.requests
    assert request.path == "/v1/health/service/web"
    assert dict(request.query) == {
        "dc": "dc2", "ns": "team-a", "partition": "p1", "stale": "", "index": "5", "wait": "600000ms",
    }  # fmt: skip
    assert request.headers["X-Consul-Token"] == TOKEN


async def test_a_peers_services_are_asked_for_by_its_name() -> None:
    async with scripted(answering(body=b"{}"), peer="east") as s:
        await s.api.names()
    assert dict(s.requests[0].query) == {"peer": "east", "stale": ""}


async def test_blocking_queries_about_services_go_through_the_agents_cache_where_that_is_wanted() -> None:
    """Others do not: what is asked at once shall be as new as it can be."""
    async with scripted(answering(body=b"[]"), agent_cache=True) as s:
        await s.api.watch("web", 5, 600)
        await s.api.watch("web", 0, 600)
        await s.api.instances("web")
    assert ["cached" in r.query for r in s.requests] == [True, False, False]


async def test_whether_a_service_has_changed_is_asked_without_asking_for_its_instances() -> None:
    async with scripted(answering(body=b"[]")) as s:
        assert await s.api.is_at("web", 7)
        assert not await s.api.is_at("web", 6)
        assert not await s.api.is_at("web", 8)
        assert s.stats.reads == 3
    assert {r.path for r in s.requests} == {"/v1/health/service/web"}
    assert all(r.query["tag"] for r in s.requests)


@pytest.mark.parametrize(
    ("status", "servers", "datacenter"),
    [
        (200, "", "dc1"),
        (403, "dc2", "dc2"),
        (403, "", ""),
    ],
)
async def test_the_agents_own_datacenter_is_asked_of_the_agent_else_of_where_the_servers_are(
    status: int, servers: str, datacenter: str
) -> None:
    """A token that may read services and nodes need not have the right to read agents."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/agent/self":
            return web.json_response({"Config": {"Datacenter": "dc1"}, "Member": None}, status=status)
        entry = {"Node": {"Node": "n", "Datacenter": servers}, "Service": {"ID": "consul", "Service": "consul"}}
        return web.json_response([entry] if servers else [], headers=HEADERS)

    async with scripted(answer, datacenter="dc9") as s:
        assert await s.api.own_datacenter() == datacenter
    assert all("dc" not in r.query for r in s.requests)


@pytest.mark.parametrize(("consistency", "flags"), [("default", set()), ("consistent", {"consistent"})])
async def test_the_consistency_is_the_configured_one(consistency: str, flags: set[str]) -> None:
    async with scripted(answering(), consistency=consistency) as s:
        await s.api.names()
    assert set(s.requests[0].query) == flags


@pytest.mark.parametrize("name", ["a/b", "web?x=1#y", "süß 100%", "web.v1"])
async def test_an_odd_service_name_is_asked_for_as_it_is(name: str) -> None:
    async with scripted(answering(body=b"[]")) as s:
        await s.api.instances(name)
    assert s.requests[0].path == f"/v1/health/service/{name}"
    assert "x" not in s.requests[0].query


async def test_a_blocking_query_that_comes_back_changed_is_a_wake_up() -> None:
    async with scripted(answering()) as s:
        await s.api.names(7, 1)
        assert s.stats.wake_ups == 0
        await s.api.names(6, 1)
        assert s.stats.wake_ups == 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (answering(403, b"ACL not found"), "403 ACL not found"),
        (answering(500, b"No cluster leader"), "500 No cluster leader"),
        (answering(429, b"Your IP is issuing too many concurrent connections"), "http_max_conns_per_client"),
        (answering(503, b""), "503"),
        (answering(301, b"", {"Location": "http://127.0.0.1:1/"}), "redirection"),
        (answering(body=b"<html>"), "not what Consul documents"),
        (answering(body=b'{"web": ['), "not what Consul documents"),
        (answering(headers={}), "X-Consul-Index"),
        (answering(headers={"X-Consul-Index": "-1"}), "X-Consul-Index"),
        (answering(headers=HEADERS | {"X-Consul-LastContact": "90000"}), "max_stale"),
        (answering(headers=HEADERS | {"X-Cache": "HIT", "Age": "90"}), "may be 90 s old"),
    ],
)
async def test_what_is_no_usable_answer_says_what_was_asked_and_what_came_back(handler: Handler, words: str) -> None:
    """And never the token, even when the server echoes it."""
    async with scripted(handler) as s:
        with pytest.raises(AdapterError, match=words) as failed:
            await s.api.names()
    assert "GET /v1/catalog/services" in str(failed.value)
    assert "consul at http://127.0.0.1:" in str(failed.value)
    assert (s.stats.reads, s.stats.errors) == (0, 1)


async def test_a_server_that_repeats_the_token_does_not_get_it_into_the_error() -> None:
    async with scripted(answering(403, f"token {TOKEN} is unknown".encode())) as s:
        with pytest.raises(RefusedError, match="is unknown") as failed:
            await s.api.names()
    assert TOKEN not in str(failed.value)


async def test_what_is_asked_for_certain_is_asked_of_the_leader() -> None:
    async with scripted(answering(body=b"[]")) as s:
        await s.api.instances("web")
        await s.api.instances_for_certain("web")
    assert [dict(r.query) for r in s.requests] == [{"stale": ""}, {}]


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with scripted(never) as s:
        with pytest.raises(AdapterError, match=r"no answer within 2\.1 s"):
            await s.api.names()


async def test_a_body_that_trickles_for_ever_is_given_up() -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        return response

    async with scripted(trickle) as s:
        with pytest.raises(AdapterError, match=r"within 2\.1 s"):
            await s.api.names()


async def test_a_body_above_the_limit_is_refused() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(consul_api.MAX_BODY // 2**20 + 1):
                await response.write(b" " * 2**20)
        return response

    async with scripted(flood) as s:
        with pytest.raises(AdapterError, match="larger than 64 MiB"):
            await s.api.names()


async def test_a_connection_that_is_refused_or_dropped_is_an_adapter_error() -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with scripted(drop) as s:
        with pytest.raises(AdapterError, match="GET /v1/catalog/services"):
            await s.api.names()
    async with scripted(drop, address="http://127.0.0.1:1") as s:
        with pytest.raises(AdapterError, match=r"127\.0\.0\.1:1"):
            await s.api.names()


async def test_a_plain_server_behind_an_https_address_is_an_adapter_error() -> None:
    async with scripted(answering()) as s:
        port = s.api._http.port
        api = mk_api(ConsulConfig(address=f"https://127.0.0.1:{port}"), s.stats)
        try:
            with pytest.raises(AdapterError, match=r"https://127\.0\.0\.1"):
                await api.names()
        finally:
            await api.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file /nowhere/ca.pem"),
        ({"cert_file": "/nowhere/c.pem", "key_file": "/nowhere/k.pem"}, "cert_file /nowhere/c.pem"),
    ],
)
async def test_a_missing_certificate_is_named(options: dict[str, object], words: str) -> None:
    config = _with(ConsulConfig(address="https://127.0.0.1:1"), options)
    with pytest.raises(AdapterError, match=words):
        mk_api(config, OriginStatus(Origin("dc1", "consul")))
