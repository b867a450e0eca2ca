"""The machines of tests: separate, joined, and gone without a trace."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.servers.netns import Machine, network
from tests.servers.process import Process
from tests.wait import eventually


def own(what: str) -> str:
    """What the network of this process consists of."""
    return subprocess.check_output(["ip", "-o", what], text=True)


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110 - a process


async def test_machines_reach_each_other(tmp_path: Path) -> None:
    """By IPv4 and IPv6, from this process and from others; nothing of it is seen here, and nothing is left."""
    before = own("link")
    with network("vm1", "vm2") as (vm1, vm2):
        for address, family in ((vm2.address, socket.AF_INET), (vm2.address6, socket.AF_INET6)):
            with vm2.entered():
                server = socket.create_server((address, 8080), family=family)
            with server, vm1.entered(), socket.create_connection((address, 8080), 5) as there:
                assert there.getpeername()[0] == address
        assert vm1.address in vm1.run("ip", "-o", "address")
        assert vm1.address not in own("address")
        left = Process(vm1.command("sleep", "1000"), tmp_path / "sleep.log")
        left.start()
        await eventually(lambda: left.pid in vm1.processes(), "it runs there")
        holders = (vm1.pid, vm2.pid)

    await eventually(lambda: not left.running, "what ran there is ended")
    assert not any(map(is_there, holders))
    assert own("link") == before


async def test_an_unplugged_machine_is_alone() -> None:
    with network("vm1", "vm2") as (vm1, vm2):
        with vm2.entered():
            server = socket.create_server((vm2.address, 8080))
        with server:
            vm2.unplug()
            with pytest.raises(OSError), vm1.entered():  # noqa: PT011 - a timeout or no route
                socket.create_connection((vm2.address, 8080), 0.3)
            vm2.plug()

            def connected() -> bool:
                with vm1.entered(), socket.create_connection((vm2.address, 8080), 1):
                    return True

            await eventually(connected, "it is back")


def test_a_failing_test_leaves_nothing() -> None:
    seen: list[Machine] = []

    def fail() -> None:
        with network("vm1") as machines:
            seen.extend(machines)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [is_there(machine.pid) for machine in seen] == [False]
