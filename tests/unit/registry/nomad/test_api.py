"""Nomad over HTTP, by either library, against a server that says what a script tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from isthmus.registry.adapter import AdapterError
from isthmus.registry.model import Origin
from isthmus.registry.nomad import NomadConfig
from isthmus.registry.nomad import api as nomad_api
from isthmus.registry.nomad import http as nomad_http
from isthmus.registry.nomad.answers import ServiceName
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.http import ForbiddenError, NotThereError, RefusedError
from isthmus.registry.origin import OriginStatus

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOKEN = "b1gs3cret"  # noqa: S105 - of a scripted server
HEADERS = {"X-Nomad-Index": "7", "X-Nomad-KnownLeader": "true", "X-Nomad-LastContact": "0"}

WEB = ServiceName("team-a", "web")


class Scripted:
    """One API client and what its server saw."""

    def __init__(self, api: NomadApi, stats: OriginStatus, requests: list[web.BaseRequest]) -> None:
        self.api = api
        self.stats = stats
        self.requests = requests


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
        stats = OriginStatus(Origin("global", "nomad"))
        settings: dict[str, object] = {"address": f"http://127.0.0.1:{server.port}", "token": TOKEN, "heartbeat": 0.1}
        api = NomadApi(NomadConfig(**settings | options), stats)  # type: ignore[arg-type]
        try:
            yield Scripted(api, stats, requests)
        finally:
            await api.close()


def answering(status: int = 200, body: bytes = b"[]", headers: Mapping[str, str] | None = None) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=HEADERS if headers is None else headers)

    return answer


async def by_aiohttp(api: NomadApi) -> object:
    return await api.services()


async def by_python_nomad(api: NomadApi) -> object:
    return await api.allocations()


either = pytest.mark.parametrize(("read", "path"), [(by_aiohttp, "/v1/services"), (by_python_nomad, "/v1/allocations")])
Read = Callable[[NomadApi], Awaitable[object]]


async def test_an_answer_carries_what_its_headers_say() -> None:
    async with scripted(answering(body=b'[{"Namespace": "a", "Services": [{"ServiceName": "web"}]}]')) as s:
        answer = await s.api.services()
    assert answer.value == {ServiceName("a", "web")}
    assert (answer.index, answer.current) == (7, True)
    assert (s.stats.reads, s.stats.errors, s.stats.wake_ups) == (1, 0, 0)


@either
async def test_the_query_says_who_asks_and_for_what(read: Read, path: str) -> None:
    async with scripted(answering(), namespace="*", region="eu") as s:
        await read(s.api)
    (request,) = s.requests
    assert request.path == path
    assert (request.query["namespace"], request.query["region"]) == ("*", "eu")
    assert request.headers["X-Nomad-Token"] == TOKEN
    assert request.headers["User-Agent"] == "isthmus"


@either
async def test_the_environment_is_none_of_its_business(read: Read, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token that is not ours to send, nor another address, nor a proxy."""
    for name in ("NOMAD_TOKEN", "NOMAD_REGION", "NOMAD_NAMESPACE"):
        monkeypatch.setenv(name, "of-the-environment")
    for name in ("NOMAD_ADDR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with scripted(answering(), token="") as s:
        await read(s.api)
    (request,) = s.requests
    assert "X-Nomad-Token" not in request.headers
    assert "of-the-environment" not in request.query_string
    assert request.path == path


async def test_jobs_nodes_and_allocations_are_asked_for_by_name() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"ID": "x"}', headers=HEADERS)

    async with scripted(answer, namespace="*") as s:
        await s.api.job("team-a", "batch/periodic-1 2?x")
        await s.api.node("n1")
        await s.api.allocation("a1")
    assert [r.path for r in s.requests] == ["/v1/job/batch/periodic-1 2?x", "/v1/node/n1", "/v1/allocation/a1"]
    assert s.requests[0].query["namespace"] == "team-a"


@pytest.mark.parametrize("name", ["a/b", "web?x=1#y", "süß 100%", "web.v1"])
async def test_an_odd_service_name_is_asked_for_as_it_is(name: str) -> None:
    async with scripted(answering()) as s:
        await s.api.registrations(ServiceName("team-a", name))
    assert s.requests[0].path == f"/v1/service/{name}"
    assert dict(s.requests[0].query) == {"namespace": "team-a"}


async def test_a_blocking_query_that_comes_back_changed_is_a_wake_up() -> None:
    async with scripted(answering()) as s:
        await s.api.namespaces(7, 1)
        assert s.stats.wake_ups == 0
        await s.api.namespaces(6, 1)
        assert s.stats.wake_ups == 1
        assert (s.requests[1].query["index"], s.requests[1].query["wait"]) == ("6", "1000ms")


@either
@pytest.mark.parametrize(
    ("handler", "words", "error"),
    [
        (answering(403, b"Permission denied"), "403 Permission denied", ForbiddenError),
        (answering(404, b"not found"), "404 not found", NotThereError),
        (answering(500, b'Unknown allocation "66b6"'), "Unknown allocation", NotThereError),
        (answering(400, b"bad filter"), "400 bad filter", RefusedError),
        (answering(500, b"No cluster leader"), "500 No cluster leader", AdapterError),
        (answering(429, b"too many"), "http_max_conns_per_client", AdapterError),
        (answering(307, b"", {"Location": "http://127.0.0.1:1/"}), "redirection", RefusedError),
        (answering(body=b"<html>"), "not what Nomad documents", AdapterError),
        (answering(body=b"[{"), "not what Nomad documents", AdapterError),
        (answering(headers={}), "X-Nomad-Index", AdapterError),
        (answering(headers={"X-Nomad-Index": "-1"}), "X-Nomad-Index", AdapterError),
    ],
)
async def test_what_is_no_usable_answer_says_what_was_asked_and_what_came_back(
    read: Read, path: str, handler: Handler, words: str, error: type[AdapterError]
) -> None:
    async with scripted(handler) as s:
        with pytest.raises(error, match=words) as failed:
            await read(s.api)
        assert str(failed.value).startswith(f"nomad at {s.api._config.address}: GET {path}: ")
    assert (s.stats.reads, s.stats.errors) == (0, 1)


@either
async def test_a_server_that_repeats_the_token_does_not_get_it_into_the_error(read: Read, path: str) -> None:
    async with scripted(answering(403, f"token {TOKEN} is unknown".encode())) as s:
        with pytest.raises(ForbiddenError, match="is unknown") as failed:
            await read(s.api)
    assert TOKEN not in str(failed.value)
    assert path in str(failed.value)


@either
async def test_an_answer_that_does_not_come_is_not_waited_for(read: Read, path: str) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with scripted(never) as s:
        began = time.monotonic()
        with pytest.raises(AdapterError, match=rf"GET {path}: no answer within 2\.1 s"):
            await read(s.api)
        assert time.monotonic() - began < 3


@either
async def test_an_answer_that_trickles_is_not_waited_for(read: Read, path: str) -> None:
    """Each byte comes in time, the end of it does not."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        return response

    async with scripted(trickle) as s:
        with pytest.raises(AdapterError, match=rf"GET {path}: no answer within 2\.1 s"):
            await read(s.api)


@either
async def test_an_answer_that_does_not_end_is_cut_off(read: Read, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nomad_http, "MAX_BODY", 1024 * 1024)
    monkeypatch.setattr(nomad_api, "MAX_BODY", 1024 * 1024)

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        return response

    async with scripted(flood, heartbeat=10) as s:
        with pytest.raises(AdapterError, match=rf"GET {path}: the answer is larger than 1 MiB"):
            await read(s.api)


@either
async def test_cancelling_returns_at_once(read: Read, path: str) -> None:
    asked = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with scripted(never, heartbeat=60) as s:
        task = asyncio.ensure_future(read(s.api))
        await asked.wait()
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.1
        assert s.requests[0].path == path


@either
async def test_a_token_file_is_read_for_each_request_that_needs_it(read: Read, path: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    async with scripted(answering(), token="", token_file=str(file)) as s:
        await read(s.api)
        file.write_text("another\n")
        await read(s.api)
        assert [r.headers["X-Nomad-Token"] for r in s.requests] == ["one", "another"]
        file.write_text("two words\n")
        with pytest.raises(AdapterError, match="something else than a token") as failed:
            await read(s.api)
        assert "two words" not in str(failed.value)
        file.unlink()
        with pytest.raises(AdapterError, match=f"GET {path}.*{file}.*No such file"):
            await read(s.api)


async def test_a_line_of_the_stream_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nomad_http, "MAX_BODY", 100_000)

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" x" * 8192)
        return response

    async with scripted(flood) as s:
        lines = s.api.events(("Service",))
        assert await anext(lines) == b"{}"
        with pytest.raises(AdapterError, match="GET /v1/event/stream: a line is larger"):
            await anext(lines)


async def test_lines_of_the_stream_may_come_in_any_pieces() -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b"{", b'}\n{"a"', b": 1}\n\n{}\n{", b"}"):
            await response.write(piece)
            await asyncio.sleep(0.01)
        return response

    async with scripted(pieces) as s:
        lines = s.api.events(("Service", "Node"))
        assert [await anext(lines) for _ in range(3)] == [b"{}", b'{"a": 1}', b"{}"]
        with pytest.raises(AdapterError, match=r"the server has ended the stream: \{\}"):
            await anext(lines)
    assert s.requests[0].query.getall("topic") == ["Service:*", "Node:*"]
