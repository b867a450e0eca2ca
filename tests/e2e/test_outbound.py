"""Callers who know of no proxy, on a machine whose Envoy asks for addresses, or has connections redirected to it."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from tests.peers import ENVOYS
from tests.servers.bridge import BridgeProcess
from tests.servers.envoy import LATEST, Envoy
from tests.servers.netns import Machine, network
from tests.servers.peers import peer_binary
from tests.servers.upstream import Upstream, get
from tests.wait import eventually

SHARED = "127.64.0.1"
OUTBOUND = 15001
MARK = 77
"""What the rule of these tests redirects: calls made by them, and not Envoy's."""
INBOUND = 15006
_ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3"
importlib.import_module(f"{_ORIGINAL_DST}.original_dst_pb2")  # its message is written as JSON below
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


class Town:
    """A machine with a bridge, services and an Envoy, and another machine that is not of the mesh."""

    def __init__(self, directory: Path, vm: Machine, away: Machine, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.vm = vm
        self.away = away
        self.stack = stack
        self.folder = directory / "services"
        self.folder.mkdir()
        registry = {"name": "local", "type": "file", "path": str(self.folder)}
        self.bridge = BridgeProcess(directory / "bridge", [registry], OUTBOUND, vm)

    async def start(self) -> None:
        self.bridge.start()
        self.stack.callback(self.bridge.stop)
        await self.bridge.ready()

    async def service(self, name: str, **ports: int) -> None:
        """A service with an upstream of the port's name for each port; one named `tcp…` is a TCP port."""
        places: dict[str, int] = {}
        for port in ports:
            upstream = Upstream(f"{name} {port}", machine=self.vm)
            await upstream.start()
            self.stack.push_async_callback(upstream.stop)
            places[port] = upstream.port
        protocols = {port: "tcp" if port.startswith("tcp") else "http" for port in ports}
        written = {
            "name": name,
            "ports": [{"name": p, "number": n, "protocol": protocols[p]} for p, n in ports.items()],
            "instances": [{"id": f"{name}-1", "address": "127.0.0.1", "ports": places}],
        }
        new = self.folder / f".{name}"
        new.write_text(yaml.safe_dump({"services": [written]}))
        new.rename(self.folder / f"{name}.yaml")

    def envoy(
        self,
        outbound: str,
        version: str = LATEST,
        edit: Callable[[Bootstrap], None] = lambda _: None,
        under: tuple[str, ...] = (),
    ) -> None:
        def with_metadata(bootstrap: Bootstrap) -> None:
            bootstrap.node.metadata["OUTBOUND"] = outbound
            edit(bootstrap)

        envoy = Envoy(self.directory, self.bridge.xds, version, edit=with_metadata)
        envoy.argv = self.vm.command(*under, *envoy.argv)
        envoy.start()
        self.stack.callback(envoy.stop)

    async def ask(self, path: str) -> Any:
        """A document of the bridge."""
        connector = aiohttp.TCPConnector(socket_factory=self.vm.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://{self.bridge.http}{path}") as answer,
        ):
            return json.loads(await answer.text())

    async def outsider(self, machine: Machine, port: int, address: str = "") -> None:
        """A server on a machine's real address, or another of its own, that no service knows."""
        with machine.entered():
            listener = socket.create_server((address or machine.address, port))
        server = await asyncio.start_server(_outsider, sock=listener)
        self.stack.callback(server.close)

    async def virtual_ip(self, name: str) -> str:
        found = (await self.ask("/debug/catalog"))["virtual_ips"]
        return next(str(address) for key, address in found.items() if name in key)

    async def followed(self, *services: str) -> None:
        """Wait until the bridge knows these services and the Envoy has accepted all that it was sent."""

        async def is_followed() -> bool:
            known = {s["key"]["name"] for s in (await self.ask("/debug/catalog"))["services"]}
            types = {t["type"]: t for p in await self.ask("/debug/proxies") for t in p["types"]}
            assert not any(t["error"] for t in types.values()), types
            in_step = all(t["state"] == "SYNCED" for t in types.values())
            return known >= set(services) and types.keys() >= {"CDS", "EDS", "LDS", "RDS"} and in_step

        await eventually(is_followed, "the Envoy has followed", 30)

    async def get(self, address: str, port: int, host: str) -> tuple[int, str]:
        """A request from the machine, to the first address alone."""
        return await get(port, host, address, machine=self.vm)

    def marked(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket whose connection is redirected."""
        sock = self.vm.socket(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        return sock

    async def get_redirected(self, address: str, port: int, host: str) -> tuple[int, str]:
        connector = aiohttp.TCPConnector(socket_factory=self.marked)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20), connector=connector) as session,
            session.get(f"http://{address}:{port}/", headers={"Host": host}) as answer,
        ):
            return answer.status, (await answer.text()).strip()

    async def talk_redirected(self, address: str, port: int, said: bytes) -> bytes:
        """What is answered, on a connection that is no HTTP, to what is said."""
        sock = self.marked((socket.AF_INET, socket.SOCK_STREAM, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(said)
            async with asyncio.timeout(20):
                return await reader.readline()
        finally:
            writer.close()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncGenerator[Town]:
    with network("vm", "away") as (vm, away):
        async with AsyncExitStack() as stack:
            town = Town(tmp_path, vm, away, stack)
            await town.start()
            yield town


@pytest.mark.parametrize("version", [ENVOYS[0], LATEST])
async def test_services_are_called_at_what_their_names_resolve_to(town: Town, version: str) -> None:
    """HTTP services of one port at one address, by their names; TCP services of one port at addresses of their own."""
    await town.service("reviews", http=9080)
    await town.service("ratings", http=9080)
    await town.service("db", tcp=5432)
    await town.service("cache", tcp=5432)
    await town.service("search", http=9200, tcp=9300)
    town.envoy("ADDRESSES", version)
    await town.followed("reviews", "ratings", "db", "cache", "search")

    assert await town.get(SHARED, 9080, "reviews:9080") == (200, "reviews http")
    assert await town.get(SHARED, 9080, "ratings.default.mesh:9080") == (200, "ratings http")
    assert (await town.get(SHARED, 9080, "nobody:9080"))[0] == 502
    assert await town.get("127.0.0.1", OUTBOUND, "reviews:9080") == (200, "reviews http")
    for name in ("db", "cache"):
        assert await town.get(await town.virtual_ip(name), 5432, "anything") == (200, f"{name} tcp")
    search = await town.virtual_ip("search")
    assert await town.get(search, 9200, "search:9200") == (200, "search http")
    assert await town.get(search, 9300, "anything") == (200, "search tcp")

    await town.service("late", http=9090)

    async def answers() -> bool:
        return await town.get(SHARED, 9090, "late:9090") == (200, "late http")

    await eventually(answers, "a service with a new port is called")
    (town.folder / "late.yaml").unlink()


async def test_a_port_that_the_envoy_may_not_open_is_named_and_the_others_are_served(town: Town) -> None:
    """Below 1024 it takes a capability. What it lacks is in `isthmus proxy-status`."""
    await town.service("web", http=80)
    await town.service("reviews", http=9080)
    town.envoy("ADDRESSES", under=("setpriv", "--bounding-set=-net_bind_service"))

    async def is_served() -> bool:
        return await town.get(SHARED, 9080, "web") == (200, "web http")

    await eventually(is_served, "the other port is served", 30)
    (proxy,) = await town.ask("/debug/proxies")
    (lds,) = (t for t in proxy["types"] if t["type"] == "LDS")
    assert lds["state"] == "REJECTED"
    assert "127.64.0.1_80: cannot bind '127.64.0.1:80': Permission denied" in lds["error"]


async def test_http_1_0_is_spoken(town: Town) -> None:
    """Old clients do, and nothing told them that there is a proxy."""
    await town.service("reviews", http=9080)
    town.envoy("ADDRESSES")
    await town.followed("reviews")
    with town.vm.entered():
        sock = socket.create_connection((SHARED, 9080))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET / HTTP/1.0\r\nHost: reviews:9080\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == b"200"
    writer.close()


@pytest.mark.parametrize("version", [ENVOYS[0], LATEST])
async def test_redirected_connections_are_routed_where_they_are_the_meshs(town: Town, version: str) -> None:
    """By host name, wherever they were going. Whatever else uses the port goes where it was going, as it was."""
    await town.service("reviews", http=9080)
    await town.service("db", tcp=5432)
    await town.outsider(town.away, 9080)
    await town.outsider(town.vm, 9080, "0.0.0.0")  # a program of this host has the number of a mesh port
    town.envoy("CAPTURED", version, _redirected_to)
    await town.followed("reviews", "db")
    iptables = peer_binary("debian", "iptables").parent / "iptables-nft"
    town.vm.run(
        *(iptables, "-t", "nat", "-A", "OUTPUT", "-p", "tcp"),
        *("-m", "mark", "--mark", str(MARK), "-j", "REDIRECT", "--to-ports", str(OUTBOUND)),
    )

    away = town.away.address
    assert await town.get_redirected(away, 9080, "reviews:9080") == (200, "reviews http")
    assert await town.get_redirected("10.77.0.99", 9080, "reviews.default.mesh") == (200, "reviews http")
    assert await town.get_redirected(away, 9080, "elsewhere:9080") == (200, "outsider GET / HTTP/1.1")
    assert await town.talk_redirected(away, 9080, b"hello\n") == b"outsider hello\n"
    assert await town.talk_redirected(away, 9080, b"") == b"outsider first\n", "the server speaks first"
    assert await town.get_redirected(SHARED, 9080, "reviews:9080") == (200, "reviews http")
    assert await town.get_redirected(await town.virtual_ip("db"), 5432, "anything") == (200, "db tcp")


async def test_calls_that_come_in_are_not_taken_for_calls_that_leave(town: Town) -> None:
    """Both sides of the proxy have the port, and who calls names a service of the mesh that is elsewhere."""
    await town.service("reviews", http=9080)
    for port in (9080, 9081):
        await town.outsider(town.vm, port)
    await town.service("ratings", http=9081)
    town.envoy("CAPTURED", LATEST, _redirected_both_ways)
    await town.followed("reviews", "ratings")
    iptables = peer_binary("debian", "iptables").parent / "iptables-nft"
    town.vm.run(
        *(iptables, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "9080:9081"),
        *("-j", "REDIRECT", "--to-ports", str(INBOUND)),
    )

    for port in (9080, 9081):
        answer = await get(port, "reviews:9080", town.vm.address, machine=town.away)
        assert answer == (200, "outsider GET / HTTP/1.1")


async def _outsider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Repeats the first line, over HTTP if it is a request; speaks first to who is silent for a while."""
    try:
        async with asyncio.timeout(1):
            line = (await reader.readline()).decode().strip()
    except TimeoutError:
        line = "first"
    body = f"outsider {line}\n".encode()
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body if line.endswith("HTTP/1.1") else body)
    await writer.drain()
    writer.close()


def _redirected_to(bootstrap: Bootstrap) -> None:
    """What the bootstrap of a proxy has that connections are redirected to, in short."""
    proxy = {"@type": _TCP_PROXY, "stat_prefix": "passthrough", "cluster": "PassthroughCluster"}
    static = {
        "clusters": [{"name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}],
        "listeners": [
            {
                "name": "virtualOutbound",
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": OUTBOUND}},
                "use_original_dst": True,
                "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
            }
        ],
    }
    found = Bootstrap()
    ParseDict({"static_resources": static}, found)
    bootstrap.MergeFrom(found)


def _redirected_both_ways(bootstrap: Bootstrap) -> None:
    """Beside that, what calls that come in are redirected to.

    It hands nothing on to other listeners: at the port that was called they are those of what leaves.
    """
    _redirected_to(bootstrap)
    proxy = {"@type": _TCP_PROXY, "stat_prefix": "inbound", "cluster": "PassthroughCluster"}
    chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
    inbound = {
        "name": "virtualInbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": INBOUND}},
        "listener_filters": [
            {
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {"@type": f"type.googleapis.com/{_ORIGINAL_DST}.OriginalDst"},
            }
        ],
        "filter_chains": [{**chain, "filter_chain_match": {"destination_port": 9080}}],
        "default_filter_chain": chain,
    }
    found = Bootstrap()
    ParseDict({"static_resources": {"listeners": [inbound]}}, found)
    bootstrap.MergeFrom(found)
