"""Interception in real kernels' networks: what is captured and what is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.agent.intercept.config import Backend
from tests.e2e.intercepted import (
    APP,
    BACKENDS,
    PROXY,
    Host,
    accept,
    acting_as,
    close_sockets,
    connect,
    forget_probes,
    listen,
    programs,
    speaks,
)
from tests.servers.netns import Machine, network


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Machine]]:
    """A host whose connections are captured, and another one."""
    programs(monkeypatch)
    with network("host", "peer") as (host, peer):
        yield host, peer
        close_sockets()


@pytest.fixture
def host(machines: tuple[Machine, Machine], backend: Backend, tmp_path: Path) -> Host:
    return Host(machines[0], backend, tmp_path / "state")


@pytest.fixture
def peer(machines: tuple[Machine, Machine]) -> Machine:
    return machines[1]


def address(machine: Machine, family: str) -> str:
    return machine.address6 if family == "ipv6" else machine.address


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_outbound_connections_reach_the_proxy_with_their_destination(
    host: Host, peer: Machine, family: str
) -> None:
    proxy = listen(host.machine, 15001)
    interceptor = await host.apply(istio_service_cidr="*")
    forget_probes(proxy)
    there = (address(peer, family), 8080)

    client = await connect(host.machine, there)
    arrived = await accept(proxy)

    assert arrived.destination == there
    assert arrived.source == address(host.machine, family)
    assert await speaks(client, arrived.connection)
    assert interceptor.problems() == []


async def test_what_is_excluded_goes_where_it_was_going(host: Host, peer: Machine) -> None:
    """The proxy's own, excluded users, groups, ports and networks, and loopback; the rest of the same host is captured, and the
    mesh's own addresses always."""
    peer.run("ip", "address", "add", "10.77.0.66/24", "dev", "eth0")
    await host.apply(
        istio_service_cidr="*",
        istio_service_exclude_cidr="10.77.0.66/32,fd77::2/128",
        istio_local_outbound_ports_exclude="8081,8082",
        proxy_gid="4010",
        outbound_owner_users_exclude="4003",
        outbound_owner_groups_exclude="4011",
    )
    proxy, local = listen(host.machine, 15001), listen(host.machine, 8080)
    at = {port: listen(peer, port) for port in (8080, 8081, 8082)}

    for to, uid, gid, listener in (
        ((peer.address, 8080), PROXY, None, at[8080]),
        ((peer.address, 8080), APP, 4010, at[8080]),
        ((peer.address, 8080), 4003, None, at[8080]),
        ((peer.address, 8080), APP, 4011, at[8080]),
        ((peer.address, 8081), APP, None, at[8081]),
        ((peer.address, 8082), APP, None, at[8082]),
        (("10.77.0.66", 8080), APP, None, at[8080]),
        ((peer.address6, 8080), APP, None, at[8080]),
        (("127.0.0.1", 8080), APP, None, local),
        (("127.32.0.1", 8080), APP, None, local),
        (("::1", 8080), APP, None, local),
        ((host.machine.address, 8080), APP, None, local),
        ((peer.address, 8080), APP, None, proxy),
        ((peer.address, 8080), 0, None, proxy),
        (("127.64.0.1", 8080), APP, None, proxy),
        (("127.64.0.1", 8081), APP, None, proxy),
    ):
        client = await connect(host.machine, to, uid, gid=gid)
        assert await speaks(client, (await accept(listener)).connection), (to, uid, gid)


async def test_only_what_is_named_is_captured(host: Host, peer: Machine) -> None:
    """Networks, ports in any network, users and groups."""
    peer.run("ip", "address", "add", "10.77.0.66/24", "dev", "eth0")
    await host.apply(
        istio_service_cidr="10.77.0.66/32",
        istio_outbound_ports="8081",
        outbound_owner_users=str(APP),
        outbound_owner_groups="4011",
    )
    proxy = listen(host.machine, 15001)
    at = {port: listen(peer, port) for port in (8080, 8081)}

    for to, uid, gid, listener in (
        (("10.77.0.66", 8080), APP, None, proxy),
        ((peer.address, 8081), APP, None, proxy),
        ((peer.address6, 8081), APP, None, proxy),
        ((peer.address, 8081), 4005, 4011, proxy),
        ((peer.address, 8080), APP, None, at[8080]),
        ((peer.address, 8081), 4005, None, at[8081]),
    ):
        client = await connect(host.machine, to, uid, gid=gid)
        assert await speaks(client, (await accept(listener)).connection), (to, uid, gid)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_inbound_ports_are_redirected(host: Host, peer: Machine, family: str) -> None:
    """Those that are named, several services per host; the proxy learns which one was called."""
    await host.apply(istio_inbound_ports="9080,9090")
    proxy, other = listen(host.machine, 15006), listen(host.machine, 9070)

    for port in (9080, 9090):
        client = await connect(peer, (address(host.machine, family), port))
        arrived = await accept(proxy)
        assert arrived.destination == (address(host.machine, family), port)
        assert arrived.source == address(peer, family)
        assert await speaks(client, arrived.connection)
    client = await connect(peer, (address(host.machine, family), 9070))
    assert await speaks(client, (await accept(other)).connection)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
async def test_of_all_inbound_ports_some_are_never_captured(host: Host, peer: Machine, mode: str) -> None:
    """SSH, the agent's and Envoy's own, and those that are excluded."""
    await host.apply(
        istio_inbound_interception_mode=mode, istio_inbound_ports="*", istio_local_exclude_ports="2222,2223"
    )
    proxy = listen(host.machine, 15006, transparent=True)

    for port in (22, 15000, 15021, 15090, 2222, 2223):
        listener = listen(host.machine, port)
        client = await connect(peer, (host.machine.address, port))
        assert await speaks(client, (await accept(listener)).connection), port
    await connect(peer, (host.machine.address, 8080))
    assert (await accept(proxy)).destination == (host.machine.address, 8080)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_tproxy_keeps_both_addresses(host: Host, peer: Machine, family: str) -> None:
    """Nothing is translated: the proxy's end of the connection has the address that was called."""
    await host.apply(istio_inbound_interception_mode="TPROXY", istio_inbound_ports="9080")
    proxy, other = listen(host.machine, 15006, transparent=True), listen(host.machine, 9070)
    application = listen(host.machine, 9080, address(host.machine, family))
    there = (address(host.machine, family), 9080)

    client = await connect(peer, there)
    arrived = await accept(proxy)

    assert arrived.led_to == there
    assert arrived.source == address(peer, family)
    assert await speaks(client, arrived.connection)
    with pytest.raises(BlockingIOError):
        application.accept()
    client = await connect(peer, (address(host.machine, family), 9070))
    assert await speaks(client, (await accept(other)).connection)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_tproxy_lets_the_application_see_the_caller(host: Host, peer: Machine, family: str) -> None:
    """A proxy that speaks with the caller's address gets the application's answers, though they are addressed to the caller."""
    host.machine.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
    await host.apply(istio_inbound_interception_mode="TPROXY", istio_inbound_ports="*")
    proxy, application = listen(host.machine, 15006, transparent=True), listen(host.machine, 9080)
    there = (address(host.machine, family), 9080)
    await connect(peer, there)
    arrived = await accept(proxy)

    with host.machine.entered(), acting_as(PROXY):
        onward = socket.socket(socket.AF_INET6 if family == "ipv6" else socket.AF_INET)
    with onward:
        onward.setblocking(False)
        onward.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)
        level, option = (socket.IPPROTO_IPV6, 75) if family == "ipv6" else (socket.SOL_IP, socket.IP_TRANSPARENT)
        onward.setsockopt(level, option, 1)
        onward.bind((arrived.source, 0))
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(onward, there), 5)
        served = await accept(application)

        assert served.source == address(peer, family)
        assert await speaks(onward, served.connection)


async def test_a_call_of_the_proxy_to_its_own_host_goes_through_the_inbound_side(host: Host) -> None:
    """As a caller it chose the local instance; as the inbound side, from 127.0.0.6 or to 127.0.0.1, it is let through."""
    await host.apply(istio_inbound_ports="9080", istio_service_cidr="*")
    proxy, application = listen(host.machine, 15006), listen(host.machine, 9080)
    there = (host.machine.address, 9080)

    await connect(host.machine, there, PROXY)
    assert (await accept(proxy)).destination == there

    await connect(host.machine, ("127.0.0.1", 9080), PROXY)
    await accept(application)
    with host.machine.entered(), acting_as(PROXY):
        onward = socket.socket()
    with onward:
        onward.bind(("127.0.0.6", 0))
        onward.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(onward, there), 5)
        assert (await accept(application)).source == "127.0.0.6"


async def test_containers_behind_an_interface(host: Host) -> None:
    """Their calls to elsewhere are captured as outbound; those to this host are let alone."""
    with network("container", "outside") as (container, _):
        host.machine.run(
            *("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth1", "netns", str(container.pid))
        )
        host.machine.run("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
        host.machine.run("ip", "link", "set", "docker0", "up")
        container.run("ip", "address", "add", "172.17.0.2/16", "dev", "eth1")
        container.run("ip", "link", "set", "eth1", "up")
        container.run("ip", "route", "add", "192.0.2.0/24", "via", "172.17.0.1")
        await host.apply(kube_virt_interfaces="docker0", istio_service_cidr="192.0.2.0/24", istio_inbound_ports="*")
        outbound, local = listen(host.machine, 15001), listen(host.machine, 8080)

        await connect(container, ("192.0.2.7", 8080))
        assert (await accept(outbound)).destination == ("192.0.2.7", 8080)

        client = await connect(container, ("172.17.0.1", 8080))
        assert await speaks(client, (await accept(local)).connection)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
async def test_what_passes_through_the_host_is_left_alone(host: Host, peer: Machine, mode: str) -> None:
    """A host that forwards, as those of containers do, captures what is addressed to itself."""
    with network("behind", "nobody") as (behind, _):
        host.machine.run(
            *("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", str(behind.pid))
        )
        host.machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for machine, own in ((host.machine, "10.78.0.1/24"), (behind, "10.78.0.2/24")):
            machine.run("ip", "address", "add", own, "dev", "eth1")
            machine.run("ip", "link", "set", "eth1", "up")
        behind.run("ip", "address", "del", "10.77.0.1/24", "dev", "eth0")
        behind.run("ip", "route", "add", "10.77.0.0/24", "via", "10.78.0.1")
        peer.run("ip", "route", "add", "10.78.0.0/24", "via", host.machine.address)
        await host.apply(istio_inbound_interception_mode=mode, istio_inbound_ports="*", istio_service_cidr="*")
        server = listen(behind, 8080)

        client = await connect(peer, ("10.78.0.2", 8080))
        assert await speaks(client, (await accept(server)).connection)


async def test_excluded_interfaces(host: Host, peer: Machine) -> None:
    await host.apply(istio_inbound_ports="*", istio_service_cidr="*", istio_exclude_interfaces="eth0")
    local, there = listen(host.machine, 9080), listen(peer, 8080)

    await connect(peer, (host.machine.address, 9080))
    await accept(local)
    await connect(host.machine, (peer.address, 8080))
    await accept(there)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_questions_for_names_reach_the_agent(host: Host, peer: Machine, family: str) -> None:
    """By UDP and TCP, and the answers come from the server that was asked; the agent's own questions go to that server."""
    await host.apply(capture_all_dns=True)
    loop = asyncio.get_running_loop()
    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    there, loopback = (address(peer, family), 53), "::1" if family == "ipv6" else "127.0.0.1"

    def udp(machine: Machine, uid: int, at: tuple[str, int] | None = None) -> socket.socket:
        with machine.entered(), acting_as(uid):
            sock = socket.socket(kind, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if at:
            sock.bind(at)
        return sock

    with udp(host.machine, PROXY, (loopback, 15053)) as agent, udp(peer, 0, there) as upstream:
        with udp(host.machine, APP) as asking:
            await loop.sock_connect(asking, there)
            await loop.sock_sendall(asking, b"?")
            question, whose = await asyncio.wait_for(loop.sock_recvfrom(agent, 100), 5)
            assert (question, whose[:2]) == (b"?", (address(host.machine, family), asking.getsockname()[1]))
            await loop.sock_sendto(agent, b"!", whose)
            assert await asyncio.wait_for(loop.sock_recv(asking, 100), 5) == b"!"
            port = asking.getsockname()[1]
        # The same port again, as the kernel may choose for the agent's question to the server that was asked before.
        with udp(host.machine, PROXY, (address(host.machine, family), port)) as onward:
            await loop.sock_sendto(onward, b"?", there)
            question, whose = await asyncio.wait_for(loop.sock_recvfrom(upstream, 100), 5)
            await loop.sock_sendto(upstream, b"!", whose)
            assert await asyncio.wait_for(loop.sock_recv(onward, 100), 5) == b"!"

    tcp = listen(host.machine, 15053)
    client = await connect(host.machine, there)
    arrived = await accept(tcp)
    assert arrived.destination == there
    assert await speaks(client, arrived.connection)


async def test_questions_are_captured_before_others_lead_them_elsewhere(host: Host, peer: Machine) -> None:
    """As Docker does in containers; the agent's own questions still go where Docker leads them."""
    docker = [
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-d",
        "127.0.0.11",
        "-p",
        "tcp",
        "--dport",
        "53",
        "-j",
        "DNAT",
        "--to-destination",
        "127.0.0.11:5353",
    ]
    host.machine.run("iptables-legacy" if host.backend == "iptables-legacy" else "iptables-nft", *docker)
    await host.apply(capture_all_dns=True)
    agent, embedded = listen(host.machine, 15053), listen(host.machine, 5353, "127.0.0.11")

    await connect(host.machine, ("127.0.0.11", 53))
    assert (await accept(agent)).destination == ("127.0.0.11", 53)

    await connect(host.machine, ("127.0.0.11", 53), PROXY)
    await accept(embedded)
