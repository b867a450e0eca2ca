"""Interception with a real Envoy behind the rules, which has the bootstrap that the agent writes and no bridge."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from isthmus.agent.bootstrap import to_agent_bootstrap
from isthmus.agent.config import AgentConfig, PortConfig, ServiceConfig
from isthmus.agent.intercept.config import Mode
from isthmus.agent.interception import to_intercept
from isthmus.registry.model import Protocol
from isthmus.xds.bootstrap import to_json
from tests.e2e.intercepted import BACKENDS, Host, close_sockets, connect, listen, programs
from tests.peers import ENVOYS
from tests.servers.netns import Machine, network
from tests.servers.peers import peer_binary
from tests.servers.process import Process
from tests.wait import eventually

ADMIN = 15000


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Machine]]:
    programs(monkeypatch)
    with network("host", "peer") as (host, peer):
        yield host, peer
        close_sockets()


class Proxied:
    """A machine with Envoy as root, which is the user that is not captured, and applications."""

    def __init__(self, machine: Machine, mode: Mode, directory: Path) -> None:
        self.machine = machine
        self.config = AgentConfig(
            node="host",
            service_cluster="reviews",
            address=machine.address,
            config_path=str(directory),
            interception_mode=mode,
            services=(ServiceConfig("reviews", (PortConfig(9080, protocol=Protocol.HTTP), PortConfig(9070))),),
        )
        bootstrap = to_agent_bootstrap(self.config, machine.address, ipv6=True, version="test")
        bootstrap.ClearField("dynamic_resources")
        path = directory / "bootstrap.json"
        path.write_text(to_json(bootstrap))
        envoy = peer_binary("envoy", ENVOYS[-1])
        words = (envoy, "-c", path, "--concurrency", "1", "-l", "warning", "--disable-hot-restart")
        self.envoy = Process(machine.command(*words), directory / "envoy.log")

    async def ready(self) -> None:
        async def live() -> bool:
            assert self.envoy.running, self.envoy.output()
            return "LIVE" in await get(self.machine, ("127.0.0.1", ADMIN), "/ready")

        self.envoy.start()
        await eventually(live, "envoy is live", 20)

    async def connections(self, cluster: str) -> int:
        """How many Envoy has made of a cluster."""
        shown = await get(self.machine, ("127.0.0.1", ADMIN), "/stats")
        name = f"cluster.{cluster}.upstream_cx_total: "
        return int(next((line.removeprefix(name) for line in shown.splitlines() if line.startswith(name)), "0"))


async def get(machine: Machine, at: tuple[str, int], path: str = "/") -> str:
    """What is answered to an application's request, head and all."""
    loop = asyncio.get_running_loop()
    sock = await connect(machine, at)
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n".encode())
    answer = b""
    async with asyncio.timeout(10):
        while more := await loop.sock_recv(sock, 1 << 16):
            answer += more
    return answer.decode()


def serve(machine: Machine, port: int, name: str, address: str = "") -> asyncio.Task[None]:
    """Answers each request with a name and the address from which it came."""
    listener = listen(machine, port, address)

    async def answer(sock: socket.socket, source: str) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            await loop.sock_recv(sock, 1 << 16)
            text = f"{name} {source.removeprefix('::ffff:')}"
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
            await loop.sock_sendall(sock, (head + text).encode())

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                sock, source = await asyncio.get_running_loop().sock_accept(listener)
                sock.setblocking(False)
                tasks.create_task(answer(sock, source[0]))

    return asyncio.create_task(run())


@pytest.fixture(params=["REDIRECT", "TPROXY"])
def proxied(machines: tuple[Machine, Machine], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    host = Proxied(machines[0], request.param, tmp_path)
    yield host
    host.envoy.stop()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_calls_in_both_directions_pass_through_envoy(
    machines: tuple[Machine, Machine], proxied: Proxied, backend: str, tmp_path: Path
) -> None:
    """With no change to the callers or to the called; with TPROXY the called see who calls."""
    host, peer = machines
    servers = [serve(host, 9080, "http"), serve(host, 9070, "tcp"), serve(host, 9060, "undeclared")]
    servers += [serve(peer, 8080, "elsewhere")]
    await proxied.ready()
    section = to_intercept(proxied.config)
    section = msgspec.structs.replace(section, istio_inbound_ports="*", backend=backend)
    interceptor = await Host(host, "nft", tmp_path / "state").apply(
        **{**msgspec.structs.asdict(section), "proxy_uid": 0}
    )
    try:
        sees = peer.address if proxied.config.interception_mode == "TPROXY" else "127.0.0.1"
        assert interceptor.problems() == []

        assert (await get(peer, (host.address, 9080))).endswith(f"http {sees}")
        assert (await get(peer, (host.address, 9070))).endswith(f"tcp {sees}")
        assert await proxied.connections("inbound|9080||") == await proxied.connections("inbound|9070||") == 1

        passed = await get(peer, (host.address, 9060))
        assert passed.endswith(f"undeclared {sees.replace('127.0.0.1', '127.0.0.6')}")
        assert await proxied.connections("InboundPassthroughCluster") == 1

        sees6 = peer.address6 if proxied.config.interception_mode == "TPROXY" else "127.0.0.1"
        assert (await get(peer, (host.address6, 9080))).endswith(f"http {sees6}")
        assert "undeclared" in await get(peer, (host.address6, 9060))

        before = await proxied.connections("PassthroughCluster")
        assert (await get(host, (peer.address, 8080))).endswith(f"elsewhere {host.address}")
        assert (await get(host, (peer.address6, 8080))).endswith(f"elsewhere {host.address6}")
        assert await proxied.connections("PassthroughCluster") == before + 2
    finally:
        await Host(host, "nft", tmp_path / "state").clean()
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
