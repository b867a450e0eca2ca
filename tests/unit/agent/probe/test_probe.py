"""Probes of each kind against something that listens, or runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from isthmus.agent.probe import Probe, watch_probe
from tests.wait import eventually


def mk_probe(**said: Any) -> Probe:
    """A quick probe, written as in a file."""
    return msgspec.convert({"periodSeconds": 0.05, "timeoutSeconds": 5} | said, Probe)


class Watched:
    """What a probe that is under way has said."""

    def __init__(self) -> None:
        self.said: list[tuple[bool, str]] = []

    @property
    def healthy(self) -> bool | None:
        return self.said[-1][0] if self.said else None

    def change(self, healthy: bool, why: str) -> None:
        self.said.append((healthy, why))


@contextlib.asynccontextmanager
async def watched(probe: Probe, slots: asyncio.Semaphore | None = None) -> AsyncGenerator[Watched]:
    seen = Watched()
    task = asyncio.create_task(watch_probe(probe, seen.change, slots))
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class App:
    """An HTTP server that answers `/health` with a status, after a while."""

    def __init__(self) -> None:
        self.status = 200
        self.wait = asyncio.Event()
        self.wait.set()
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.at_once = self.most_at_once = 0
        app = web.Application()
        app.router.add_get("/health", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def port(self) -> int:
        assert self.server.port is not None
        return self.server.port

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.headers = dict(request.headers)
        try:
            await self.wait.wait()
        finally:
            self.at_once -= 1
        headers = {"Location": "http://127.0.0.1:1/"} if self.status == 302 else None
        return web.Response(status=self.status, text="the database is away", headers=headers)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    await app.server.start_server()
    yield app
    app.wait.set()
    await app.server.close()


async def test_http_says_each_change_once(app: App) -> None:
    probe = mk_probe(httpGet={"path": "/health", "port": app.port}, failureThreshold=2)
    async with watched(probe) as seen:
        await eventually(lambda: seen.healthy, "the first success")
        app.status = 503
        await eventually(lambda: seen.healthy is False, "it fails")
        app.status = 204
        await eventually(lambda: seen.healthy, "it succeeds again")
        asked = app.asked
        await eventually(lambda: app.asked > asked + 2, "further probes")
    assert [healthy for healthy, _ in seen.said] == [True, False, True]
    assert seen.said[1][1] == f"GET http://127.0.0.1:{app.port}/health: 503 the database is away"


async def test_a_redirection_is_a_success_and_is_not_followed(app: App) -> None:
    app.status = 302
    async with watched(mk_probe(httpGet={"path": "/health", "port": app.port})) as seen:
        await eventually(lambda: seen.healthy, "a success")


async def test_headers_are_sent_and_never_shown(app: App) -> None:
    headers = [{"name": "Host", "value": "reviews"}, {"name": "Authorization", "value": "Bearer s3cret"}]
    app.status = 500
    probe = mk_probe(httpGet={"path": "/health", "port": app.port, "httpHeaders": headers}, failureThreshold=1)
    async with watched(probe) as seen:
        await eventually(lambda: seen.healthy is False, "a failure")
    assert app.headers["Host"] == "reviews"
    assert app.headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in seen.said[0][1] + repr(probe)


async def test_an_answer_that_does_not_come_is_a_failure(app: App) -> None:
    app.wait.clear()
    probe = mk_probe(httpGet={"path": "/health", "port": app.port}, timeoutSeconds=0.1, failureThreshold=1)
    async with watched(probe) as seen:
        await eventually(lambda: seen.healthy is False, "a failure")
    assert "no answer within 0.1 s" in seen.said[0][1]


async def test_nothing_is_said_before_the_first_verdict(app: App) -> None:
    app.status = 500
    probe = mk_probe(httpGet={"path": "/health", "port": app.port}, failureThreshold=1000)
    async with watched(probe) as seen:
        await eventually(lambda: app.asked > 3, "some failures")
        assert seen.said == []


async def test_no_more_are_under_way_than_there_are_slots(app: App) -> None:
    """And the application has all of its time once it is asked."""
    slots = asyncio.Semaphore(2)
    async with contextlib.AsyncExitStack() as stack:
        probe = mk_probe(httpGet={"path": "/health", "port": app.port})
        all_seen = [await stack.enter_async_context(watched(probe, slots)) for _ in range(6)]
        await eventually(lambda: all(seen.healthy for seen in all_seen), "all of them succeed")
        assert app.most_at_once <= 2


async def test_tcp_needs_somebody_who_listens() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with watched(mk_probe(tcpSocket={"port": port}, failureThreshold=1)) as seen:
        await eventually(lambda: seen.healthy, "somebody listens")
        server.close()
        await server.wait_closed()
        await eventually(lambda: seen.healthy is False, "nobody listens")
    assert seen.said[-1][1].startswith(f"tcp 127.0.0.1:{port}: ")
    assert "refused" in seen.said[-1][1] or "Connect call failed" in seen.said[-1][1]


class Health(grpc.GenericRpcHandler):
    """grpc.health.v1, written by hand: statuses by service."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {"": 1}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=StringValue.FromString,
            response_serializer=Int32Value.SerializeToString,
        )

    async def _check(self, request: StringValue, context: grpc.aio.ServicerContext[Any, Any]) -> Int32Value:
        if request.value not in self.statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return Int32Value(value=self.statuses[request.value])


async def test_grpc_asks_the_standard_health_service() -> None:
    health = Health()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((health,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        quick = {"failureThreshold": 1}
        async with (
            watched(mk_probe(grpc={"port": port}, **quick)) as whole,
            watched(mk_probe(grpc={"port": port, "service": "reviews"}, **quick)) as one,
        ):
            await eventually(lambda: whole.healthy, "the server serves")
            await eventually(lambda: one.healthy is False, "it does not know the service")
            assert one.said[-1][1] == f"grpc 127.0.0.1:{port} (reviews): NOT_FOUND unknown service"
            health.statuses["reviews"] = 1
            await eventually(lambda: one.healthy, "the service serves")
            health.statuses["reviews"] = 2
            await eventually(lambda: one.healthy is False, "the service does not serve")
            assert one.said[-1][1] == f"grpc 127.0.0.1:{port} (reviews): NOT_SERVING"
    finally:
        await server.stop(None)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_exec_goes_by_the_exit_status(tmp_path: Path) -> None:
    command = script(tmp_path / "check", f'test -e {tmp_path}/well || {{ echo "no such luck"; exit 3; }}')
    async with watched(mk_probe(exec={"command": [command]}, failureThreshold=1)) as seen:
        await eventually(lambda: seen.healthy is False, "it fails")
        (tmp_path / "well").touch()
        await eventually(lambda: seen.healthy, "it succeeds")
    assert seen.said[0][1] == f"exec {command}: exit status 3 no such luck"


async def test_a_command_that_takes_too_long_ends_with_all_it_has_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path / "check", f"sleep 1000 & echo $! $$ >> {pids}; wait")
    probe = mk_probe(exec={"command": [command]}, timeoutSeconds=0.3, failureThreshold=1)
    async with watched(probe) as seen:
        await eventually(lambda: seen.healthy is False, "it takes too long")
        assert seen.said[0][1] == f"exec {command}: no answer within 0.3 s"
        started = [int(pid) for pid in pids.read_text().split("\n")[0].split()]
        await eventually(lambda: not any(map(lives, started)), "both are gone")


async def test_what_a_command_leaves_behind_with_its_output_open_ends_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path / "check", f"sleep 1000 & echo $! >> {pids}")
    began = time.monotonic()
    async with watched(mk_probe(exec={"command": [command]})) as seen:
        await eventually(lambda: seen.healthy, "it succeeds", timeout=4)
        assert time.monotonic() - began < 4, "it does not wait for what is left behind"
        await eventually(lambda: not lives(int(pids.read_text().split()[0])), "that is gone")


async def test_a_command_that_prints_without_end_is_read_and_ended(tmp_path: Path) -> None:
    command = script(tmp_path / "check", "exec yes")
    probe = mk_probe(exec={"command": [command]}, timeoutSeconds=0.3, failureThreshold=1)
    async with watched(probe) as seen:
        await eventually(lambda: seen.healthy is False, "it takes too long")


async def test_a_command_that_is_not_there_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    async with watched(mk_probe(exec={"command": [f"{tmp_path}/nothing"]}, failureThreshold=1)) as seen:
        await eventually(lambda: seen.healthy is False, "a failure")
    assert "No such file" in seen.said[0][1]


async def test_a_command_sees_no_secret_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "s3cret")
    command = script(tmp_path / "check", f"env > {tmp_path}/env")
    async with watched(mk_probe(exec={"command": [command]})) as seen:
        await eventually(lambda: seen.healthy, "it succeeds")
    said = (tmp_path / "env").read_text()
    assert "s3cret" not in said
    assert "PATH=" in said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "expected one of httpGet, tcpSocket, grpc and exec"),
        ({"tcpSocket": {"port": 1}, "grpc": {"port": 2}}, "expected one of httpGet, tcpSocket, grpc and exec"),
        ({"httpGet": {"port": 80, "path": "health"}}, "expected one that begins with /"),
        ({"httpGet": {"port": 0}}, "httpGet.port"),
        ({"exec": {"command": []}}, "exec.command"),
        ({"tcpSocket": {"port": 1}, "period": 3}, "unknown field `period`"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        mk_probe(**said)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_command_that_is_under_way_ends_with_the_agent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path / "check", f"echo $$ >> {pids}; exec sleep 1000")
    async with watched(mk_probe(exec={"command": [command]}, timeoutSeconds=60)):
        await eventually(lambda: pids.exists() and pids.read_text().endswith("\n"), "it runs")
    assert not lives(int(pids.read_text()))
