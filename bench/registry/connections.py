"""How many connections a process has to a server, looked up in /proc: for servers that do not tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path

EVERY = 0.25
"""Seconds between two looks. What is shorter is not seen."""

_ESTABLISHED = "01"


class Sampler:
    """Looks now and then, from `start` to `close`; `most` is what was found at most."""

    def __init__(self, port: int) -> None:
        self.most = 0
        self._port = port
        self._looking: asyncio.Task[None] | None = None

    def start(self, pid: int) -> None:
        """Look at this process."""
        self._looking = asyncio.create_task(self._look(pid))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self, pid: int) -> None:
        while True:
            self.most = max(self.most, connections(pid, self._port))
            await asyncio.sleep(EVERY)


def connections(pid: int, port: int) -> int:
    """The established TCP connections of a process to a port; 0 when it has ended."""
    try:
        inodes = _sockets(pid)
        # gRPC reaches IPv4 addresses from IPv6 sockets.
        tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    except FileNotFoundError:
        return 0
    rows = (line.split() for table in tables for line in table)
    # A table that changes while it is read may show a connection twice.
    found = {row[9] for row in rows if row[3] == _ESTABLISHED and int(row[2].partition(":")[2], 16) == port}
    return len(found & inodes)


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed by now
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):  # noqa: PTH115 - the target is no path
                found.add(match[1])
    return found
