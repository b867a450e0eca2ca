"""One shape of the matrix: every server in turn, the same number of proxies, one change after another."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.machine import cpu_seconds
from bench.push.lines import Program
from bench.push.servers import Place, Server, Shape, subscribe
from bench.rows import quantile

BLOCK = 2.0
"""Seconds after which a block of changes ends, however many there were."""
CHANGES = 200
"""Changes after which it ends."""
QUIET = 0.2
"""A server has settled when it used no CPU time for so many seconds."""


@dataclass
class Cell:
    """What was found of one server, one shape and one number of proxies; a value per block."""

    number: int
    cpu_us: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    """Of all blocks: from before the change until the last proxy has it."""
    bytes_per_push: float = 0.0

    @property
    def cpu(self) -> float:
        """Microseconds of CPU time per push."""
        return statistics.median(self.cpu_us)

    @property
    def p50(self) -> float:
        return quantile(self.last_ms, 0.5)

    @property
    def p99(self) -> float:
        return quantile(self.last_ms, 0.99)

    @property
    def per_s(self) -> float:
        """Pushes per second, with a change as soon as the one before it has arrived everywhere."""
        return self.number * len(self.last_ms) / sum(self.last_ms) * 1000


async def compare(shape: Shape, servers: Sequence[Server], place: Place, number: int, blocks: int) -> dict[str, Cell]:
    """Blocks of changes, of one server after the other, and so `blocks` times."""
    cells = {server.label: Cell(number) for server in servers}
    for _ in range(blocks):
        for server in servers:
            try:
                await _block(shape, server, place, cells[server.label])
            except RuntimeError as e:
                raise RuntimeError(f"{shape.name}, {number} proxies, {server.label}: {e}") from e
    return cells


async def _block(shape: Shape, server: Server, place: Place, cell: Cell) -> None:
    load = place.load
    await load.order(subscribe(shape, server.address, place, cell.number))
    await settled(server.pid)
    await round_of(server, load)  # what is made once has been made
    await settled(server.pid)
    await load.order({"do": "count"})
    changes = 0
    cpu, began = cpu_seconds(server.pid), time.monotonic()
    while changes < CHANGES and time.monotonic() - began < BLOCK:
        cell.last_ms.append(await round_of(server, load))
        changes += 1
    await settled(server.pid)
    cell.cpu_us.append((cpu_seconds(server.pid) - cpu) * 1e6 / (changes * cell.number))
    counted = await load.order({"do": "count"})
    if counted["responses"] != changes * cell.number:
        raise RuntimeError(f"{counted['responses']} responses to {cell.number} proxies after {changes} changes")
    cell.bytes_per_push = counted["bytes"] / counted["responses"]
    await load.order({"do": "close"})
    await settled(server.pid)


async def round_of(server: Server, load: Program) -> float:
    """Milliseconds from just before one change until the last proxy has it."""
    await load.order({"do": "round"})
    began = time.monotonic_ns()
    change = asyncio.create_task(server.change())
    arrived = await load.answer()
    await change
    return float(arrived["last"] - began) / 1e6


async def settled(pid: int) -> None:
    """Until a process has done what it had to do."""
    deadline = time.monotonic() + 20
    cpu = cpu_seconds(pid)
    while time.monotonic() < deadline:
        await asyncio.sleep(QUIET)
        before, cpu = cpu, cpu_seconds(pid)
        if cpu - before <= 0.01:
            return
