"""The agent: what it costs a machine to be in the mesh, and what it costs a request."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from bench.agent import checks, dns, start
from bench.agent.latency import Client, measure
from bench.agent.paths import HOST, Agent, Bridge, Nginx, listening
from bench.machine import cpu_seconds, resident_kb
from bench.rows import Row, figure, say
from tests.servers.process import Process, free_port
from tests.wait import eventually

IDLE_SECONDS = 30.0
SETTLE = 3.0
"""Seconds of quiet before memory is read."""


async def run() -> list[Row]:
    """Measure; takes about six minutes."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        async with _open_world(Path(directory)) as world:
            rows = [*await _latency(world), *await _idle(world)]
    return [*rows, *await start.rows(), *await dns.rows(), *await checks.rows()]


class _World(NamedTuple):
    """A program with an agent, a caller with another, the bridge between them, and two nginx in the agents' places."""

    program: Nginx
    bridge: Bridge
    server: Agent
    caller: Agent
    nginx: Nginx


@contextlib.asynccontextmanager
async def _open_world(directory: Path) -> AsyncGenerator[_World]:
    with contextlib.ExitStack() as stack:

        async def begin(process: Process, port: int) -> None:
            stack.callback(process.stop, 20)
            process.start()
            await listening(process, port)

        say("starting a program, the bridge, two agents and two nginx")
        program = Nginx(directory / "program")
        await begin(program, program.port)
        inbound = free_port()
        bridge = Bridge(directory / "bridge", f"127.0.0.1:{inbound}")
        await begin(bridge, bridge.xds_port)
        port = {
            "name": "http",
            "protocol": "http",
            "port": 80,
            "inbound": inbound,
            "target": f"127.0.0.1:{program.port}",
        }
        server = Agent(directory / "server", bridge.xds_port, {"services": [{"name": "echo", "ports": [port]}]})
        await begin(server, inbound)
        caller = Agent(directory / "caller", bridge.xds_port, {})
        await begin(caller, caller.outbound_port)
        near = Nginx(directory / "nginx-inbound", f"127.0.0.1:{program.port}")
        await begin(near, near.port)
        nginx = Nginx(directory / "nginx-outbound", f"127.0.0.1:{near.port}")
        await begin(nginx, nginx.port)
        await eventually(lambda: _answers(caller.outbound_port), "a call passes through both proxies", 60)
        yield _World(program, bridge, server, caller, nginx)


def _answers(port: int) -> bool:
    client = Client(port, HOST)
    try:
        return client.ask() > 0
    except RuntimeError:
        return False
    finally:
        client.close()


async def _latency(world: _World) -> list[Row]:
    """What a request takes more than a direct one."""
    say("requests: direct, through both Envoys, through two nginx in their places")
    ports = {"direct": world.program.port, "agent": world.caller.outbound_port, "nginx": world.nginx.port}
    median = await asyncio.to_thread(measure, ports, HOST)
    added, rival = median["agent"] - median["direct"], median["nginx"] - median["direct"]
    nginx = "Debian's nginx in both places, interleaved"
    return [
        figure("agent.direct_p50_ms", median["direct"], "ms", "no proxy; HTTP/1.1, one connection"),
        figure("agent.added_p50_ms", added, "ms", f"outbound and inbound Envoy; {nginx}: {rival:.3f}"),
        figure("agent.added_p50_over_nginx", added / rival, "ratio", nginx),
    ]


async def _idle(world: _World) -> list[Row]:
    """What an agent and its Envoy use while nothing happens."""
    say(f"idle for {IDLE_SECONDS:g} s")
    await asyncio.sleep(SETTLE)
    agent, envoy = world.caller.pid, world.caller.envoy_pid()
    began = time.monotonic()
    before = {pid: cpu_seconds(pid) for pid in (agent, envoy)}
    await asyncio.sleep(IDLE_SECONDS)
    elapsed = time.monotonic() - began
    share = {pid: (cpu_seconds(pid) - spent) / elapsed * 100 for pid, spent in before.items()}
    return [
        figure("agent.idle_mb", resident_kb(agent) / 1024, "MiB", f"its Envoy: {resident_kb(envoy) / 1024:.1f}"),
        figure("agent.idle_cpu_percent", share[agent], "% of a CPU", f"its Envoy: {share[envoy]:.2f}"),
    ]
