"""A connection as somebody whose connections are captured, to see that it reaches Envoy's port; and one as Envoy, which must not.

Whom a connection belongs to is decided when its socket is made, by the thread's user for files (setfsuid(2)). So no other process
is needed, and nothing is changed for other threads. Whether the connection has arrived is read from the kernel's list of sockets:
what listens there may be Envoy, or a listener of our own as long as nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isthmus.agent.intercept.kernel import networks, way_to
from isthmus.agent.intercept.plan import Family, Plan
from isthmus.agent.intercept.programs import InterceptError, Tools

NOBODY = 65534
_DOCUMENTATION = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
"""Nobody has these addresses (RFC 5737, RFC 3849)."""
_LOCAL = {"ipv4": "127.0.0.1", "ipv6": "::1"}
_SOCKET = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_SO_ORIGINAL_DST = 80
_LISTENS = ("0A", "07")
"""States in /proc/net/tcp and udp (proc(5)): a listener, and a UDP socket that is connected with nobody."""
_SOON = 0.2
_EVERY = 0.005
_libc = ctypes.CDLL(None, use_errno=True)


class Unverifiable(Exception):  # noqa: N818 - it is not an error of the rules
    """No connection could be made that would show anything; with the reason."""


async def verify(plan: Plan, family: Family, tools: Tools, port: int, timeout: float) -> None:
    """See that an outbound connection of one family is captured; `port` is the destination's, where the plan captures it.

    Raises:
        InterceptError: it was not captured, or Envoy's own was.
        Unverifiable: none could be made.

    """
    target = await _target(plan, family, tools, port)
    listener = _listen(family, plan.envoy_port)
    try:
        captured = plan.uids[0] if plan.uids else _free(NOBODY, (*plan.proxy_uids, *plan.uids_exclude))
        group = plan.gids[0] if plan.gids and not plan.uids else _free(NOBODY, (*plan.proxy_gids, *plan.gids_exclude))
        with _socket_as(family, captured, group) as probe:
            if not await _arrives(probe, target, plan.envoy_port, timeout):
                raise InterceptError(
                    f"a connection of user {captured} to {_shown(target)} was not led to port {plan.envoy_port}: "
                    "an earlier rule of another program decides otherwise, or nothing listens there"
                )
            if listener is not None and (seen := await _original(listener, family, timeout)) != target:
                raise InterceptError(f"a connection to {_shown(target)} arrived as one to {_shown(seen)}")
        with _socket_as(family, plan.proxy_uids[0], group) as probe:
            if await _arrives(probe, target, plan.envoy_port, _SOON):
                raise InterceptError(f"a connection of the proxy (user {plan.proxy_uids[0]}) is led back to it")
    finally:
        if listener is not None:
            listener.close()


def captures(plan: Plan, address: str, port: int) -> bool:
    """Whether a connection to there is captured, as far as its destination decides it."""
    parsed = ipaddress.ip_address(address)

    def within(networks: tuple[str, ...]) -> bool:
        return any(parsed in ipaddress.ip_network(network) for network in networks)

    if port in plan.ports_exclude or within(plan.networks_exclude):
        return False
    return port in plan.ports or within(plan.networks)


async def _target(plan: Plan, family: Family, tools: Tools, port: int) -> tuple[str, int]:
    """A destination that is captured, and that a route leads to by an interface on which anything is.

    Raises:
        Unverifiable: there is none.

    """
    if not (plan.networks or plan.ports):
        raise Unverifiable("nothing outbound is captured")
    for address in _addresses(plan, family, await networks(tools)):
        ports = [each for each in (port, *plan.ports, 80) if captures(plan, address, each)]
        if ports and not _is_excluded(plan, await way_to(tools, address)):
            return address, ports[0]
    raise Unverifiable("no route of this host leads to an address that is captured")


def _addresses(plan: Plan, family: Family, own: Sequence[str]) -> Iterator[str]:
    yield _DOCUMENTATION[family]
    for network in plan.of(family, plan.networks):
        yield from _first(network)
    for network in plan.of(family, tuple(own)):
        interface = ipaddress.ip_interface(network)
        if not interface.is_link_local:
            yield from (near for near in _first(str(interface.network)) if near != str(interface.ip))


def _first(network: str) -> Iterator[str]:
    """Two addresses of a network, or the only one."""
    parsed = ipaddress.ip_network(network)
    yield from (str(parsed[n]) for n in ((1, 2) if parsed.num_addresses > 2 else (0,)))


def _is_excluded(plan: Plan, interface: str) -> bool:
    return interface in ("", "lo") or any(
        interface == each or (each.endswith("+") and interface.startswith(each[:-1]))
        for each in plan.interfaces_exclude
    )


def _listen(family: Family, port: int) -> socket.socket | None:
    listener = socket.socket(_SOCKET[family], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOCAL[family], port))
        listener.listen()
        listener.setblocking(False)
    except OSError as e:
        listener.close()
        if e.errno != errno.EADDRINUSE:
            raise Unverifiable(f"port {port} cannot be listened on: {e.strerror}") from e
        return None
    return listener


async def _original(listener: socket.socket, family: Family, timeout: float) -> tuple[str, int]:
    """Where the next connection was going."""
    async with asyncio.timeout(timeout):
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    with accepted:
        if family == "ipv4":
            raw = accepted.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), int(struct.unpack_from("!H", raw, 2)[0])
        raw = accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int(struct.unpack_from("!H", raw, 2)[0])


async def _arrives(probe: socket.socket, target: tuple[str, int], port: int, timeout: float) -> bool:
    """Whether a connection is made and its other end is at a local port."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.sock_connect(probe, target)
    except OSError:  # a TimeoutError is one
        return False
    deadline = loop.time() + _SOON
    while not _is_accepted(probe.getsockname(), port):
        if loop.time() > deadline:
            return target[0] in _DOCUMENTATION.values()  # it was accepted and ended already; nobody else answers there
        await asyncio.sleep(_EVERY)
    return True


def idle(plan: Plan) -> list[str]:
    """What is captured and refused, because nothing listens where it is led to; sentences."""
    led = [
        ("outbound", plan.envoy_port, "tcp", bool(plan.networks or plan.ports)),
        ("inbound", plan.inbound_port, "tcp", plan.inbound != ()),
        ("questions for names", plan.dns_port, "udp", bool(plan.nameservers)),
    ]
    return [
        f"{what}: what is captured fails, for nothing listens on {kind} port {port}"
        for what, port, kind, captured in led
        if captured and not any(s.port == port and s.state in _LISTENS for s in _sockets(kind))
    ]


def _is_accepted(remote: tuple[str, int], port: int) -> bool:
    """Whether a socket of a local port is connected with a remote one."""
    address = ipaddress.ip_address(remote[0])
    return any(s.port == port and s.remote_port == remote[1] and _address(s.remote) == address for s in _sockets("tcp"))


class _Socket(NamedTuple):
    port: int
    remote: str
    remote_port: int
    state: str


def _sockets(kind: str) -> Iterator[_Socket]:
    for name in (kind, f"{kind}6"):
        with contextlib.suppress(OSError), Path(f"/proc/thread-self/net/{name}").open() as lines:
            next(lines, "")
            for line in lines:
                _, local, remote, state, *_ = line.split()
                yield _Socket(int(local[-4:], 16), remote[:-5], int(remote[-4:], 16), state)


def _address(shown: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel shows it: 32-bit words in the byte order of the machine."""
    words = [int(shown[at : at + 8], 16) for at in range(0, len(shown), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return getattr(address, "ipv4_mapped", None) or address


@contextlib.contextmanager
def _socket_as(family: Family, uid: int, gid: int) -> Generator[socket.socket]:
    own_uid, own_gid = os.geteuid(), os.getegid()
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        # Neither call tells whether it was allowed; with a number that nobody has, they tell what is.
        if (_libc.setfsuid(-1), _libc.setfsgid(-1)) != (uid, gid):
            raise Unverifiable(f"this process may not act as user {uid} (CAP_SETUID, CAP_SETGID)")
        probe = socket.socket(_SOCKET[family], socket.SOCK_STREAM)
    finally:
        _libc.setfsuid(own_uid)
        _libc.setfsgid(own_gid)
    with probe:
        probe.setblocking(False)
        yield probe


def _free(number: int, taken: Sequence[int]) -> int:
    return next(n for n in range(number, 0, -1) if n not in taken)


def _shown(target: tuple[str, int]) -> str:
    return f"[{target[0]}]:{target[1]}" if ":" in target[0] else f"{target[0]}:{target[1]}"
