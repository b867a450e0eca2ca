"""Machines whose programs know of no proxy: agents, rules made by `isthmus intercept`, a bridge and a registry, all real."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from isthmus.agent.intercept.config import Backend, Mode
from tests.e2e.intercepted import APP, PROXY, changes, close_sockets, connect, programs, rules
from tests.peers import ENVOYS
from tests.servers.agent import ISTHMUS, AgentProcess
from tests.servers.bridge import BridgeProcess
from tests.servers.consul import Consul
from tests.servers.netns import Machine, network
from tests.servers.peers import peer_binary
from tests.servers.upstream import constant_load
from tests.wait import eventually

ADMIN = 15000
NOBODY_BY_NAME = "10.77.0.1"
"""The DNS server of all machines in their resolv.conf: there is none."""
_PORTS = {"reviews": ("http", 9080), "ratings": ("http", 9090), "db": ("tcp", 5432)}


class Town:
    """A hub with Consul, the bridge and servers of no mesh; `one`, where an application calls, and `two`, where several serve."""

    def __init__(self, directory: Path, machines: tuple[Machine, ...], mode: Mode, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.hub, self.one, self.two = machines
        self.mode = mode
        self.stack = stack
        self.consul: Consul
        self.bridge: BridgeProcess
        self.agents: list[AgentProcess] = []

    async def start(self, backend: Backend) -> None:
        self.consul = await Consul.start_dev(self.directory / "consul", machine=self.hub)
        self.stack.callback(self.consul.stop)
        registry = {"name": "consul", "type": "consul", "address": self.consul.address, "heartbeat": 1.0}
        self.bridge = BridgeProcess(self.directory / "bridge", [registry], 15001, self.hub)
        self.bridge.start()
        self.stack.callback(self.bridge.stop)
        await self.bridge.ready()
        # With TPROXY the caller's address is kept, and 127.0.0.1 could not answer it.
        where = self.two.address if self.mode == "TPROXY" else "127.0.0.1"
        await self.serve_http("reviews", self.two, where, 9080)
        await self.serve_http("ratings", self.two, where, 9090)
        await self.serve_first("db", self.two, where, 5432)
        await self.serve_http("outsider", self.hub, "::", 9080)
        await self.serve_first("outsider", self.hub, "::", 5432)
        await self.join(self.one, backend, {})
        await self.join(self.two, backend, _PORTS)

    async def join(self, machine: Machine, backend: Backend, ports: dict[str, tuple[str, int]]) -> None:
        """Start an agent as a user of its own."""
        resolv = self.directory / f"resolv-{machine.name}"
        resolv.write_text(f"nameserver {NOBODY_BY_NAME}\noptions timeout:5 attempts:1\n")
        machine.run("mount", "--bind", resolv, "/etc/resolv.conf")
        machine.run("mount", "--bind", peer_binary("envoy", ENVOYS[-1]).resolve().parent, "/mnt")
        settings = {
            "discoveryAddress": self.bridge.xds,
            "interceptionMode": self.mode,
            "intercept": {"captureAllDns": True, "backend": backend},
            "binaryPath": "/mnt/envoy",
            "proxyAdminPort": ADMIN,
            "services": [
                {"name": name, "ports": [{"name": protocol, "port": number}]}
                for name, (protocol, number) in ports.items()
            ],
            "registration": {"type": "consul", "address": self.consul.address},
            "dns": {},
        }
        agent = AgentProcess(self.directory / machine.name, settings, machine)
        # To read is for the test's own directory, which is root's. The rest is what an Envoy with TPROXY needs.
        rights = "+dac_read_search" + (",+net_admin" if self.mode == "TPROXY" else "")
        user = (f"--reuid={PROXY}", f"--regid={PROXY}", "--clear-groups")
        under = ("setpriv", *user, f"--inh-caps={rights}", f"--ambient-caps={rights}")
        agent.argv = machine.command(*under, ISTHMUS, "agent", "-c", agent.file)
        os.chown(agent.directory, PROXY, PROXY)
        agent.start()
        self.stack.callback(agent.close)
        self.agents.append(agent)
        await agent.ready()

    def intercept(self, agent: AgentProcess, *words: str) -> str:
        """What `isthmus intercept` says on the machine of an agent."""
        assert agent.machine
        state = ("--state-dir", self.directory / f"rules-{agent.machine.name}")
        return agent.machine.run(ISTHMUS, "intercept", *words, *state)

    async def serve_http(self, name: str, machine: Machine, address: str, port: int) -> None:
        """Answers each request with a name and the address from which it came."""

        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=f"{name} {(request.remote or '').removeprefix('::ffff:')}")

        application = web.Application()
        application.router.add_get("/", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, _listener(machine, address, port)).start()

    async def serve_first(self, name: str, machine: Machine, address: str, port: int) -> None:
        """Says its name and the address from which it is called before anything is said to it, and then repeats what is."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            source = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
            writer.write(f"{name} {source}\n".encode())
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, sock=_listener(machine, address, port))
        self.stack.callback(server.close)

    async def curl(self, url: str) -> str:
        """What a program of the application's user gets, which resolves the name as any program does."""
        command = ("curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--noproxy", "*", url)
        return await asyncio.to_thread(self.one.run, *_as_app(), *command)

    async def resolve(self, name: str) -> str:
        """The address that the C library has for the application."""
        found = await asyncio.to_thread(self.one.run, *_as_app(), "getent", "ahostsv4", name)
        return found.split()[0]

    async def hear(self, address: str, port: int) -> tuple[str, str]:
        """What a server says before the application has said anything, and what it says to that."""
        loop = asyncio.get_running_loop()
        sock = await connect(self.one, (address, port))
        async with asyncio.timeout(10):
            first = await loop.sock_recv(sock, 100)
            await loop.sock_sendall(sock, b"hello\n")
            return first.decode().strip(), (await loop.sock_recv(sock, 100)).decode().strip()

    async def known(self) -> None:
        """Wait until the calling machine has all services and their names."""

        async def is_known() -> bool:
            for name in ("reviews", "ratings"):
                assert (await self.curl(f"http://{name}:{_PORTS[name][1]}/")).startswith(name)
            return (await self.hear(await self.resolve("db"), 5432))[0].startswith("db")

        await eventually(is_known, "the mesh's services answer by their names", 30)

    async def counted(self, machine: Machine, *names: str) -> list[int]:
        """Counters of a machine's Envoy."""
        connector = aiohttp.TCPConnector(socket_factory=machine.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://127.0.0.1:{ADMIN}/stats") as answer,
        ):
            shown = dict(line.split(": ", 1) for line in (await answer.text()).splitlines() if ": " in line)
        return [int(shown.get(f"cluster.{name}", "0")) for name in names]


@pytest.fixture(params=[("REDIRECT", "nft"), ("TPROXY", "nft"), ("REDIRECT", "iptables-nft")], ids="-".join)
async def town(request: pytest.FixtureRequest, tmp_path: Path, machines: tuple[Machine, ...]) -> AsyncIterator[Town]:
    """All is there but the rules."""
    mode, backend = request.param
    async with AsyncExitStack() as stack:
        town = Town(tmp_path, machines, mode, stack)
        await town.start(backend)
        yield town


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, ...]]:
    programs(monkeypatch)
    with network("hub", "one", "two") as machines:
        yield machines
        close_sockets()


async def test_programs_that_know_of_no_proxy_call_through_both(town: Town) -> None:
    """By name and by address; HTTP, TCP and servers that speak first; what is not the mesh's goes where it was going."""
    before = [rules(machine) for machine in (town.one, town.two)]
    for agent in town.agents:
        town.intercept(agent, "--config", str(agent.file), "-u", str(PROXY))
    await town.known()
    sees = town.one.address if town.mode == "TPROXY" else "127.0.0.1"
    two, hub = town.two.address, town.hub.address

    called = ("outbound|9080||reviews.default.mesh.upstream_rq_total", "PassthroughCluster.upstream_cx_total")
    served = [f"inbound|{port}||.upstream_{kind}" for port, kind in _KINDS]
    at_one, at_two = await town.counted(town.one, *called), await town.counted(town.two, *served)

    assert await town.curl("http://reviews:9080/") == f"reviews {sees}"
    assert await town.curl("http://reviews.default.mesh:9080/") == f"reviews {sees}"
    assert await town.counted(town.one, *called) == [at_one[0] + 2, at_one[1]]
    assert await town.curl("http://ratings.service.consul:9090/") == f"ratings {sees}"
    assert await town.hear(await town.resolve("db"), 5432) == (f"db {sees}", "hello")
    assert await town.curl(f"http://{two}:9080/") == f"reviews {sees}", "by address, to where it was going"
    assert await town.hear(two, 5432) == (f"db {sees}", "hello")
    assert await town.counted(town.one, *called) == [at_one[0] + 2, at_one[1] + 2]
    assert await town.counted(town.two, *served) == [a + n for a, n in zip(at_two, (3, 1, 2), strict=True)]

    assert await town.curl(f"http://{hub}:9080/") == f"outsider {town.one.address}"
    assert await town.curl(f"http://[{town.hub.address6}]:9080/") == f"outsider {town.one.address6}"
    assert await town.hear(hub, 5432) == (f"outsider {town.one.address}", "hello")
    assert (await town.counted(town.one, *called))[1] == at_one[1] + 5

    for agent, was in zip(town.agents, before, strict=True):
        town.intercept(agent, "clean")
        assert agent.machine
        assert changes(was, rules(agent.machine)) == []


async def test_agents_are_killed_and_come_back_and_nobody_notices(town: Town) -> None:
    """At the caller's and at the server's machine: rules and Envoys stay as they are."""
    for agent in town.agents:
        town.intercept(agent, "--config", str(agent.file), "-u", str(PROXY))
    await town.known()
    envoys = [agent.envoys() for agent in town.agents]

    async with constant_load(9080, "reviews:9080", address=town.two.address, fresh=True, machine=town.one) as load:
        for agent in town.agents:
            agent.kill()
        await eventually(lambda: load.recent().total() > 20, "Envoys go on alone", every=0.3)
        for agent in town.agents:
            agent.start()
            await agent.ready()
        await eventually(lambda: load.recent().total() > 20, "and with their agents", every=0.3)
    assert load.failures == []
    assert [agent.envoys() for agent in town.agents] == envoys
    await town.known()


_KINDS = ((9080, "rq_total"), (9090, "rq_total"), (5432, "cx_total"))


def _as_app() -> tuple[str, ...]:
    return ("setpriv", f"--reuid={APP}", f"--regid={APP}", "--clear-groups", "--")


def _listener(machine: Machine, address: str, port: int) -> socket.socket:
    family: Any = socket.AF_INET6 if ":" in address else socket.AF_INET
    with machine.entered():
        return socket.create_server((address, port), family=family, dualstack_ipv6=family == socket.AF_INET6)
