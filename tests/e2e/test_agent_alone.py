"""One agent and its Envoy on this machine, without a bridge: what comes in, how it is looked after, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from isthmus.agent.bootstrap import to_agent_bootstrap, to_text
from isthmus.agent.envoy import find, validate
from isthmus.agent.load import parse
from tests.peers import ENVOYS
from tests.servers.agent import ISTHMUS, AgentProcess
from tests.servers.peers import peer_binary
from tests.servers.process import free_port
from tests.servers.upstream import Upstream, constant_load, get
from tests.wait import eventually

Start = Callable[..., Awaitable[AgentProcess]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an agent with services, without outbound, and waits until it is ready."""
    async with AsyncExitStack() as stack:

        async def start_agent(*ports: dict[str, Any], ready: bool = True, **settings: Any) -> AgentProcess:
            services = [{"name": "reviews", "ports": list(ports)}] if ports else []
            written = {"outbound": {"mode": "NONE"}, "services": services, "terminationDrainDuration": "10ms"}
            agent = AgentProcess(tmp_path / "agent", written | settings)
            stack.callback(agent.close)
            agent.start()
            if ready:
                await agent.ready()
            return agent

        yield start_agent


@pytest.fixture
async def application() -> AsyncIterator[Upstream]:
    upstream = Upstream("reviews")
    await upstream.start()
    yield upstream
    await upstream.stop()


def port(protocol: str, target: int | str) -> dict[str, Any]:
    """A port of the proxy, for an application."""
    where = target if isinstance(target, str) else f"127.0.0.1:{target}"
    return {"name": protocol, "port": free_port(), "target": where}


class TestWhatComesIn:
    async def test_http_of_any_version(self, start: Start, application: Upstream) -> None:
        """HTTP/1.0 without a host, HTTP/1.1, and the answer's headers as the application made them."""
        http = port("http", application.port)
        await start(http)

        reader, writer = await asyncio.open_connection("127.0.0.1", http["port"])
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

        assert answer.startswith((b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"))
        assert answer.endswith(b"reviews")
        assert b"server: Python" in answer
        assert await get(http["port"], "whatever") == (200, "reviews")

    async def test_websockets(self, start: Start) -> None:
        async def echo(request: web.Request) -> web.WebSocketResponse:
            socket_ = web.WebSocketResponse()
            await socket_.prepare(request)
            async for message in socket_:
                await socket_.send_str(f"heard {message.data}")
            return socket_

        app = web.Application()
        app.router.add_get("/", echo)
        async with serving(app) as address:
            http = port("http", int(address.rpartition(":")[2]))
            await start(http)
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"http://127.0.0.1:{http['port']}/") as client,
            ):
                await client.send_str("hello")
                assert (await client.receive(5)).data == "heard hello"

    async def test_grpc(self, start: Start) -> None:
        """HTTP/2 all the way, trailers included."""

        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            context.set_trailing_metadata((("who", "reviews"),))
            return request.upper()

        server = grpc.aio.server()
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Shout", {"Up": method}),))
        target = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        api = port("grpc", target)
        try:
            await start(api)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{api['port']}") as channel:
                shout: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Shout/Up")
                call = shout(b"hello")
                assert await call == b"HELLO"
                assert ("who", "reviews") in list(await call.trailing_metadata() or ())
        finally:
            await server.stop(0)

    async def test_tcp_in_which_the_server_speaks_first(self, start: Start, tmp_path: Path) -> None:
        """To a port, and to a socket of the file system."""

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\r\n")
            await writer.drain()
            writer.close()

        path = tmp_path / "app.sock"
        by_port = await asyncio.start_server(greet, "127.0.0.1", 0)
        by_path = await asyncio.start_unix_server(greet, path)
        mail = port("tcp-mail", by_port.sockets[0].getsockname()[1])
        local = port("tcp-local", f"unix://{path}")
        async with by_port, by_path:
            await start(mail, local)
            for one in (mail, local):
                reader, writer = await asyncio.open_connection("127.0.0.1", one["port"])
                assert await reader.readline() == b"220 ready\r\n"
                writer.close()
                await writer.wait_closed()


class TestLookedAfter:
    async def test_a_killed_envoy_is_started_again(self, start: Start, application: Upstream) -> None:
        http = port("http", application.port)
        agent = await start(http)
        (before,) = agent.envoys()

        os.kill(before, signal.SIGKILL)

        async def serves() -> bool:
            return before not in agent.envoys() and await get(http["port"], "reviews") == (200, "reviews")

        await eventually(serves, "another Envoy serves")
        assert (await agent.status()).envoy.restarts == 1, agent.output()
        assert "envoy.ended" in agent.output()

    async def test_a_probe_decides_about_the_health(self, start: Start, application: Upstream) -> None:
        """It is shown in the status, at /app-health, and in the metrics."""
        probe = {"tcpSocket": {"port": application.port}, "periodSeconds": 0.05, "failureThreshold": 1}
        agent = await start(services=[{"name": "reviews", "ports": [port("http", application.port)], "probe": probe}])

        async def health() -> int:
            return (await agent.request("/app-health/reviews"))[0]

        async def becomes(status: int) -> None:
            async def is_so() -> bool:
                return await health() == status

            await eventually(is_so, f"/app-health answers {status}")

        await becomes(200)
        await application.stop()
        await becomes(503)
        assert 'isthmus_agent_service_healthy{service="reviews"} 0.0' in (await agent.request("/stats/prometheus"))[1]
        assert (await agent.request("/app-health/ratings"))[0] == 404

    async def test_metrics_of_agent_envoy_and_application_are_on_one_page(self, start: Start) -> None:
        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text="# TYPE books counter\nbooks 5\n")

        app = web.Application()
        app.router.add_get("/metrics", metrics)
        async with serving(app) as address:
            target = address.rpartition(":")[2]
            service = {"name": "reviews", "ports": [port("http", int(target))], "metrics": f"{address}/metrics"}
            agent = await start(services=[service])
            _, page = await agent.request("/stats/prometheus")
            envoys = agent.settings["envoyPrometheusPort"]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{envoys}/stats/prometheus") as answer:
                    of_envoy = await answer.text()
                async with session.get(f"http://127.0.0.1:{envoys}/quitquitquit") as answer:
                    assert answer.status == 404

        assert {"books 5", "isthmus_agent_ready 1.0"} <= set(page.splitlines())
        assert "envoy_server_live{} 1" in page
        assert "envoy_server_live{} 1" in of_envoy

    async def test_a_half_written_file_changes_nothing(self, start: Start, application: Upstream) -> None:
        http = port("http", application.port)
        agent = await start(http)
        whole = agent.file.read_text()

        agent.file.write_text(whole[: len(whole) // 2] + "\nservices: [{name: rev")
        await eventually(lambda: "agent.reload_refused" in agent.output(), "it is refused")
        assert await get(http["port"], "reviews") == (200, "reviews")

        agent.write(statusPort=free_port())
        await eventually(lambda: "a change of statusPort needs a restart" in agent.output(), "so is that")
        assert await get(http["port"], "reviews") == (200, "reviews")


class TestHotRestart:
    async def test_a_taken_port_leaves_the_envoy_that_runs(self, start: Start, application: Upstream) -> None:
        """It serves on, the reason is in the status, and SIGHUP tries again."""
        http = port("http", application.port)
        agent = await start(http)
        (before,) = agent.envoys()
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            number = taken.getsockname()[1]
            further = {"name": "tcp", "port": number, "target": f"127.0.0.1:{application.port}"}
            agent.write(services=[{"name": "reviews", "ports": [http, further]}])

            async def named() -> bool:
                return any(f"port {number}: Address already in use" in p for p in (await agent.status()).problems)

            await eventually(named, "the status says so")
            assert await get(http["port"], "reviews") == (200, "reviews")
            assert agent.envoys() == [before]
        agent.send_signal(signal.SIGHUP)

        async def serves() -> bool:
            return (await get(number, "reviews"))[1] == "reviews" and not (await agent.status()).problems

        await eventually(serves, "and now it is done")
        assert before not in agent.envoys()[-1:]

    async def test_another_version_of_envoy_takes_over(
        self, start: Start, application: Upstream, tmp_path: Path
    ) -> None:
        """After an upgrade of the program, on SIGHUP, without a refused connection."""
        http = port("http", application.port)
        program = tmp_path / "envoy"
        program.symlink_to(peer_binary("envoy", ENVOYS[-2]))
        agent = await start(http, binaryPath=str(program))

        async with constant_load(http["port"], "reviews", fresh=True) as load:
            program.unlink()
            program.symlink_to(peer_binary("envoy", ENVOYS[-1]))
            agent.send_signal(signal.SIGHUP)

            async def upgraded() -> bool:
                envoy = (await agent.status()).envoy
                return (envoy.version, envoy.epoch) == (ENVOYS[-1], 1)

            await eventually(upgraded, "the new one serves", 20)
            await eventually(lambda: load.recent()["reviews"] > 20, "requests go on", every=0.3)
        assert load.failures == []


class TestEnds:
    async def test_on_request_it_drains_and_ends(self, start: Start, application: Upstream) -> None:
        agent = await start(port("http", application.port))

        assert (await agent.request("/drain", "POST"))[0] == 200
        assert await agent.request("/healthz/ready") == (503, "it is draining\n")
        assert (await agent.request("/quitquitquit", "POST"))[0] == 200

        await eventually(lambda: not agent.running, "it has ended")
        assert agent.stop() == 0
        assert agent.envoys() == []
        assert not list((agent.directory / "state").glob("hr_*"))

    async def test_a_second_signal_ends_the_waiting(self, start: Start, application: Upstream) -> None:
        agent = await start(port("http", application.port), terminationDrainDuration="10m")

        agent.send_signal(signal.SIGTERM)
        await eventually(lambda: "agent.draining" in agent.output(), "it waits")
        agent.send_signal(signal.SIGINT)

        await eventually(lambda: not agent.running, "it has ended")
        assert agent.stop() == 0

    async def test_who_has_drained_does_not_wait_again(self, start: Start, application: Upstream) -> None:
        agent = await start(port("http", application.port), terminationDrainDuration="4s")

        assert await isthmus("agent", "drain", "-c", str(agent.file)) == (0, "")
        assert await agent.request("/healthz/ready") == (503, "it is draining\n")
        assert len(agent.envoys()) == 1
        assert agent.stop() == 0

        draining, stopping, stopped = (when(agent, f"agent.{what}") for what in ("draining", "stopping", "stopped"))
        assert stopping - draining >= timedelta(seconds=4)
        assert stopped - stopping < timedelta(seconds=4)
        status, said = await isthmus("agent", "drain", "-c", str(agent.file))
        assert (status, "no answer from an agent at 127.0.0.1:" in said) == (1, True)

    async def test_the_waiting_begins_when_the_registry_knows(self, start: Start, application: Upstream) -> None:
        """Until then callers are still sent here; a slow registry takes nothing of their time to go."""
        times: list[float] = []

        async def register(request: web.Request) -> web.Response:
            if (await request.json())["health"] == "draining" and not times:
                await asyncio.sleep(3)  # what a slow registry is
                times.append(asyncio.get_running_loop().time())
            return web.json_response({"ttl": 30})

        async def withdraw(_: web.Request) -> web.Response:
            times.append(asyncio.get_running_loop().time())
            return web.json_response({})

        app = web.Application()
        app.router.add_put("/v1/workloads/{id}", register)
        app.router.add_delete("/v1/workloads/{id}", withdraw)
        async with serving(app) as address:
            registration = {"type": "bridge", "addresses": [address]}
            agent = await start(
                port("http", application.port), registration=registration, terminationDrainDuration="2s"
            )
            await eventually(lambda: "agent.registered" in agent.output(), "it is registered", 20)
            agent.send_signal(signal.SIGTERM)
            await eventually(lambda: not agent.running, "it has ended", 20)

        known, withdrawn = times
        assert withdrawn - known >= 1.9

    async def test_stop_ends_what_a_killed_agent_left(self, start: Start, application: Upstream) -> None:
        agent = await start(port("http", application.port))
        agent.kill()
        assert len(agent.envoys()) == 1

        assert await isthmus("agent", "stop", "-c", str(agent.file)) == (0, "ended\n")
        assert agent.envoys() == []
        assert await isthmus("agent", "stop", "-c", str(agent.file)) == (0, "nothing ran\n")

    async def test_stop_ends_a_running_agent(self, start: Start, application: Upstream) -> None:
        agent = await start(port("http", application.port))

        assert await isthmus("agent", "stop", "-c", str(agent.file)) == (0, "ended\n")
        assert agent.stop() == 0
        assert agent.envoys() == []


class TestRefusals:
    """One sentence each, status 1, and nothing left running."""

    async def refused(self, agent: AgentProcess) -> str:
        await eventually(lambda: not agent.running, "it has ended")
        assert agent.stop() == 1
        assert agent.envoys() == []
        (said,) = agent.output().splitlines()
        return said

    async def test_no_envoy(self, start: Start) -> None:
        agent = await start(ready=False, binaryPath="no/such/envoy")

        assert "no/such/envoy is no program: install Envoy 1.36 or later" in await self.refused(agent)

    async def test_an_envoy_that_is_too_old(self, start: Start, tmp_path: Path) -> None:
        old = tmp_path / "envoy"
        old.write_text(
            "#!/bin/sh\necho 'envoy  version: 68d4315167352ffac71f149a43b8088397d3f33d/1.20.7/Clean/RELEASE/BoringSSL'\n"
        )
        old.chmod(0o755)

        agent = await start(ready=False, binaryPath=str(old))

        assert f"{old} is Envoy 1.20: expected 1.36 or later" in await self.refused(agent)

    @pytest.mark.parametrize("field", ["statusPort", "envoyPrometheusPort", "proxyAdminPort"])
    async def test_a_taken_port(self, start: Start, field: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            number = taken.getsockname()[1]
            agent = await start(ready=False, **{field: number})

            assert f"cannot listen on 127.0.0.1 port {number}: Address already in use" in await self.refused(agent)

    async def test_a_second_agent_for_the_same_directory(self, start: Start) -> None:
        first = await start()
        second = AgentProcess(first.directory, first.settings | {"statusPort": free_port()})
        second.log = first.directory / "second.log"
        second.start()
        await eventually(lambda: not second.running, "it has ended")

        assert "another agent runs with configPath" in second.output()
        assert await first.request("/healthz/ready") == (200, "ready\n")


async def test_waiting_on_the_command_line(start: Start, application: Upstream) -> None:
    agent = await start(port("http", application.port))
    at = ("--agent", f"127.0.0.1:{agent.status_port}")

    assert await isthmus("agent", "wait", *at) == (0, "")
    status, said = await isthmus("agent", "wait", *at, "--for", "ready,upstream:ratings>=2,dns", "--timeout", "100ms")
    assert status == 1
    assert "not within 100ms: upstream:ratings>=2 (0 healthy), dns (the agent has no DNS server" in said
    nobody = f"127.0.0.1:{free_port()}"
    assert await isthmus("agent", "wait", "--agent", nobody, "--timeout", "0s") == (
        1,
        f"isthmus: not within 0s: an agent that answers at {nobody}\n",
    )
    assert (await isthmus("agent", "wait", "--for", "redy"))[0] == 2


@pytest.mark.parametrize("version", [ENVOYS[0], ENVOYS[-1]])
async def test_every_mode_is_taken_by_envoy(tmp_path: Path, version: str) -> None:
    program = await find(str(peer_binary("envoy", version)))
    ports = "{name: http, port: 9080}, {name: grpc, port: 9000}, {name: tls, port: 9443}, {name: tcp, port: 3306}"
    for mode in (
        "outbound: {mode: ADDRESSES}",
        "outbound: {mode: EXPLICIT}",
        "outbound: {mode: NONE}",
        "interceptionMode: REDIRECT",
        "interceptionMode: TPROXY",
        "proxyAdminPort: 0",
        "{inboundAddress: 0.0.0.0, locality: eu/eu-1}",
    ):
        text = f"services: [{{name: reviews, ports: [{ports}]}}]\n{mode.strip('{}') if mode[0] == '{' else mode}\n"
        config = parse(text.replace(", locality", "\nlocality").encode(), tmp_path / "agent.yaml", {}, "vm-1")
        file = tmp_path / "bootstrap.json"
        file.write_text(to_text(to_agent_bootstrap(config, "10.0.0.5", ipv6=True, version="0")))
        await validate(program, file)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serves an application on a port of its own; the front of its URLs."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def when(agent: AgentProcess, event: str) -> datetime:
    """The time at which it logged this."""
    (line,) = (line for line in map(json.loads, agent.output().splitlines()) if line["event"] == event)
    return datetime.fromisoformat(line["timestamp"])


async def isthmus(*words: str) -> tuple[int, str]:
    """Run the command: its status, and all it says."""
    process = await asyncio.create_subprocess_exec(
        ISTHMUS, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
