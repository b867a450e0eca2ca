"""What tests of interception look at: connections as some user, where they arrive, and all rules and routes of a machine."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import difflib
import os
import re
import socket
import struct
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from isthmus.agent.intercept.apply import Interceptor
from isthmus.agent.intercept.config import Backend, Intercept
from tests.servers.netns import Machine
from tests.servers.peers import peer_binary

BACKENDS: tuple[Backend, ...] = ("nft", "iptables-nft", "iptables-legacy")
APP, PROXY = 4001, 4002
"""Users: numbers are enough."""
SO_ORIGINAL_DST = 80
_libc = ctypes.CDLL(None, use_errno=True)
_opened: list[socket.socket] = []


def close_sockets() -> None:
    """Close all that was opened here."""
    while _opened:
        _opened.pop().close()


class Arrived(NamedTuple):
    """A connection at a listener: where it came from, where it was going, and where it was led."""

    source: str
    destination: tuple[str, int]
    led_to: tuple[str, int]
    connection: socket.socket


def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put nft and both kinds of iptables on PATH."""
    places = [str(peer_binary("debian", name).parent) for name in ("iptables", "nftables")]
    monkeypatch.setenv("PATH", os.pathsep.join([*places, os.environ["PATH"]]))


@contextlib.contextmanager
def acting_as(uid: int, gid: int | None = None) -> Generator[None]:
    """Sockets that this thread makes in the block belong to a user."""
    _libc.setfsgid(uid if gid is None else gid)
    _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)


def listen(machine: Machine, port: int, address: str = "", *, transparent: bool = False) -> socket.socket:
    """A listener of a machine, for both families unless it has an address."""
    with machine.entered():
        family = socket.AF_INET if "." in address else socket.AF_INET6
        listener = socket.socket(family, socket.SOCK_STREAM)
    _opened.append(listener)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address)))
    if transparent:
        listener.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
    listener.bind((address, port))
    listener.listen()
    listener.setblocking(False)
    return listener


async def connect(
    machine: Machine, to: tuple[str, int], uid: int = APP, *, gid: int | None = None, timeout: float = 5
) -> socket.socket:
    """A connection from a machine, as a user."""
    with machine.entered(), acting_as(uid, gid):
        sock = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_STREAM)
    _opened.append(sock)
    sock.setblocking(False)
    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, to), timeout)
    return sock


async def accept(listener: socket.socket, timeout: float = 5) -> Arrived:
    """The next connection of a listener."""
    connection, source = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), timeout)
    _opened.append(connection)
    connection.setblocking(False)
    led_to = connection.getsockname()
    mapped = led_to[0].startswith("::ffff:") or "." in led_to[0]
    try:
        if mapped:
            raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            going = socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
        else:
            raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            going = socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]
    except OSError:  # nothing was translated
        going = (_plain(led_to[0]), led_to[1])
    return Arrived(_plain(source[0]), going, (_plain(led_to[0]), led_to[1]), connection)


def forget_probes(listener: socket.socket) -> None:
    """Close what is waiting: connections that were made to see whether rules work."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


async def speaks(here: socket.socket, there: socket.socket) -> bool:
    """Whether what is said at each end is heard at the other."""
    loop = asyncio.get_running_loop()
    for one, other in ((here, there), (there, here)):
        await loop.sock_sendall(one, b"hello")
        if await asyncio.wait_for(loop.sock_recv(other, 100), 5) != b"hello":
            return False
    return True


def rules(machine: Machine, *, empty: bool = True) -> str:
    """All rules and routes of a machine; the time of day and counters left out, and on request what may be empty."""
    commands = (
        *(("iptables-legacy-save",), ("ip6tables-legacy-save",), ("iptables-nft-save",), ("ip6tables-nft-save",)),
        *([("nft", "list", "ruleset")] if empty else []),
        *(("ip", "rule"), ("ip", "-6", "rule")),
        *(("ip", "route", "show", "table", "all"), ("ip", "-6", "route", "show", "table", "all")),
    )
    shown = "".join(f"$ {' '.join(words)}\n{machine.run(*words)}" for words in commands)
    # An interface's own address appears a second after the interface.
    shown = re.sub(r"^(#|.* fe80::).*\n", "", shown, flags=re.MULTILINE)
    return re.sub(r"\[\d+:\d+\]|packets \d+ bytes \d+", "", shown)


def changes(before: str, after: str) -> list[str]:
    """Lines that went and lines that came."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


class Host:
    """A machine whose connections are captured, by one back end."""

    def __init__(self, machine: Machine, backend: Backend, directory: Path) -> None:
        self.machine = machine
        self.backend = backend
        self.directory = directory

    def interceptor(self, **settings: object) -> Interceptor:
        """One that has not been applied; the proxy is PROXY."""
        config = Intercept(**{"proxy_uid": PROXY, "backend": self.backend, **settings})  # type: ignore[arg-type]
        with self.machine.entered():
            return Interceptor(config, self.directory)

    async def apply(self, **settings: object) -> Interceptor:
        """Apply and confirm."""
        interceptor = self.interceptor(**settings)
        with self.machine.entered():
            await interceptor.apply()
            await interceptor.confirm()
        return interceptor

    def watched(self) -> bool:
        """Whether a watchdog is there."""
        return any(
            b"intercept.watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.machine.processes()
        )

    async def clean(self) -> bool:
        """Remove all that is ours."""
        with self.machine.entered():
            return await self.interceptor().clean()


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")
