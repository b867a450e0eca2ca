"""Machines of a test: network namespaces of its own, joined by a switch, with real addresses.

    with network("vm1", "vm2") as (vm1, vm2):
        vm1.run("ping", "-c1", vm2.address)                         # a command there, to its end
        server = Process(vm2.command("consul", "agent"), log)       # a process there
        with vm1.entered():
            sock = socket.create_server((vm1.address, 80))          # a socket of this process there
        connector = aiohttp.TCPConnector(socket_factory=vm1.socket)  # requests from there

Nothing is named on the machine that runs the test, and nothing is put into its own network: a namespace lives as long as a
process in it, the first of which ends with the test's process. Each machine also has mounts of its own, so `/etc/resolv.conf` can
be mounted over inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import peers

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

SUBNET = "10.77.0"
"""The first three numbers of every machine's IPv4 address; the last counts from 1."""
SUBNET6 = "fd77::"


class Machine:
    """A network namespace with `lo` and `eth0`."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.address6 = f"{SUBNET6}{number:x}"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "--", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - a leaked namespace would stay until the machine restarts
        )

    @property
    def pid(self) -> int:
        """The process whose namespaces these are."""
        return self._holder.pid

    def command(self, *argv: str | Path) -> list[str]:
        """The words that run a program there; it keeps the process id."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *map(str, argv)]

    def run(self, *argv: str | Path, timeout: float = 30) -> str:
        """What a program prints there on standard output.

        Raises:
            AssertionError: it fails; with what it said.

        """
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, f"{self.name}: {' '.join(map(str, argv))}: {done.stderr or done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes in the block are of this machine, for good."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            _set_namespace(there)
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)
            os.close(there)

    def socket(self, address: tuple[Any, ...]) -> socket.socket:
        """For aiohttp's `socket_factory`: a socket of this machine; `address` is an entry of getaddrinfo."""
        family, kind, protocol, *_ = address
        with self.entered():
            return socket.socket(family, kind, protocol)

    def processes(self) -> list[int]:
        """Everything that runs there, its holder and what nobody waits for included."""
        namespace = f"/proc/{self.pid}/ns/net"
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _same(f"/proc/{pid}", namespace)]  # noqa: PTH208 - names are enough

    def unplug(self) -> None:
        """Take its network away; its own addresses stay reachable for itself."""
        self.run("ip", "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Give it back. The kernel has forgotten the IPv6 address meanwhile."""
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "address", "replace", f"{self.address6}/64", "dev", "eth0", "nodad")

    def wait_until_there(self) -> None:
        """Wait until the namespace has been made."""
        deadline = time.monotonic() + 10
        while (
            _same(f"/proc/{self.pid}", "/proc/self/ns/net") or Path(f"/proc/{self.pid}/comm").read_text() != "sleep\n"
        ):
            if self._holder.poll() is not None:
                said = self._holder.stderr.read().decode().strip() if self._holder.stderr else ""
                reason = f"no network namespaces can be made here: {said}"
                if peers.required():
                    pytest.fail(reason)
                pytest.skip(reason)
            assert time.monotonic() < deadline, f"{self.name}: no namespace was made"
            time.sleep(0.005)

    def close(self) -> None:
        """End everything in it, and so itself."""
        with contextlib.suppress(OSError):
            for pid in self.processes():
                if pid not in (self.pid, os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self._holder.kill()
        self._holder.wait(10)
        if self._holder.stderr:
            self._holder.stderr.close()


@contextlib.contextmanager
def network(*names: str) -> Iterator[tuple[Machine, ...]]:
    """Machines of these names at 10.77.0.1 and fd77::1, 10.77.0.2 and fd77::2, … that reach each other and nothing else.

    Skips the test, or fails it with ISTHMUS_PEERS=required, where there may be no namespaces.
    """
    with contextlib.ExitStack() as stack:
        switch = Machine("switch", 254)
        stack.callback(switch.close)
        switch.wait_until_there()
        switch.run("ip", "link", "add", "switch", "type", "bridge")
        switch.run("ip", "link", "set", "switch", "up")
        machines = []
        for number, name in enumerate(names, 1):
            machine = Machine(name, number)
            stack.callback(machine.close)
            machine.wait_until_there()
            port = f"port{number}"
            switch.run(
                *("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid)),
            )
            switch.run("ip", "link", "set", port, "master", "switch", "up")
            machine.run("ip", "link", "set", "lo", "up")
            machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
            machine.run("ip", "address", "add", f"{machine.address6}/64", "dev", "eth0", "nodad")
            # Else its routes become more a second or two after the start, when nobody has objected to the link's address.
            machine.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
            machine.run("ip", "link", "set", "eth0", "up")
            machines.append(machine)
        yield tuple(machines)


def _same(process: str, namespace: str) -> bool:
    try:
        return os.stat(f"{process}/ns/net").st_ino == os.stat(namespace).st_ino  # noqa: PTH116 - links, read a thousand times
    except OSError:
        return False


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
