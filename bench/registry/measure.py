"""What is measured of one reader with one registry: the listing, rest, changes one by one, and churn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from bench.mesh import spread
from bench.registry.figures import Idle, Listed, Series
from bench.registry.lines import Child
from bench.registry.population import Fleet, State
from bench.registry.sides import Side
from bench.rows import say

LATEST = 60.0
"""Seconds for a change to arrive."""
LAST = 20.0
"""Seconds for the last of many changes, after it was made."""
SETTLE = 3.0
"""Seconds from the first catalog until everything that follows it has come to rest: watches begin, buffers are freed."""
LISTED = 90.0
"""Seconds for the first listing."""


class Bench:
    """One reader. `fleet` is what its registry holds."""

    def __init__(self, side: Side, reader: Child, fleet: Fleet, arrived: dict[int, float]) -> None:
        self.side = side
        self.fleet = fleet
        self.errors = 0
        """Requests that failed, so far."""
        self._reader = reader
        self._arrived = arrived

    async def listed(self) -> Listed:
        """Wait for the first listing and for the rest that follows."""
        hello = await self._reader.greeting(LISTED)
        found, wanted = (hello["services"], hello["instances"]), (self.fleet.size, len(self.fleet))
        if found != wanted:
            raise RuntimeError(
                f"{found[0]} services with {found[1]} instances were read, not {wanted[0]} with {wanted[1]}"
            )
        await asyncio.sleep(SETTLE)
        # Twice: the first collection may leave what the second finds unused.
        await self._reader.ask(collect=True)
        grown = (await self._reader.ask(collect=True))["grown_kb"]
        listed = Listed(hello["synced_s"], grown, (await self._reader.ask(save=True))["cpu_s"] * 1000)
        say(f"    {listed.seconds:.1f} s to the first catalog; {grown / len(self.fleet):.2f} KiB per instance")
        return listed

    async def idle(self, seconds: float) -> Idle:
        """Let nothing happen for so long."""
        before, began = await self._usage(), time.monotonic()
        await asyncio.sleep(seconds)
        after, took = await self._usage(), time.monotonic() - began
        idle = Idle(took, (after["reads"] - before["reads"]) * 60 / took, (after["cpu_s"] - before["cpu_s"]) / took)
        say(f"    idle: {idle.reads_per_minute:.1f} reads per minute, {idle.cpu:.2%} of a CPU")
        return idle

    async def one_by_one(
        self, changes: Sequence[State], idle: Idle, pause: float, rng: random.Random, within: float = float("inf")
    ) -> Series:
        """Each change when the one before has arrived, after a pause of random length; as many as `within` seconds hold.

        Raises:
            RuntimeError: one does not arrive.

        """
        await self._expect(changes)
        before, began = await self._usage(), time.monotonic()
        written: list[float] = []
        for number, state in enumerate(changes):
            written.append(await self.side.put(state))
            if not await self._arrival({number}, LATEST):
                raise RuntimeError(f"{state} did not arrive within {LATEST:g} s")
            await asyncio.sleep(rng.uniform(0.5, 1.5) * pause)
            if time.monotonic() - began > within:
                break
        return await self._took(before, began, written, idle)

    async def steadily(self, changes: Sequence[State], idle: Idle, per_second: float) -> Series:
        """Changes at a steady pace, whether or not the reader keeps up."""
        await self._expect(changes)
        before, began = await self._usage(), time.monotonic()
        written: list[float] = []
        for number, state in enumerate(changes):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            written.append(await self.side.put(state))
        series = await self._took(before, began, written, idle)
        await self._arrival(set(range(len(changes))), LAST)
        late = self._latencies(written)
        if len(late) > len(series.latencies):
            say(f"    with the last ones: {spread(late)}; {len(changes) - len(late)} did not arrive")
        return msgspec.structs.replace(series, latencies=late, missing=len(changes) - len(late))

    async def _expect(self, changes: Sequence[State]) -> None:
        self._arrived.clear()
        await self._reader.ask(expect=changes)

    async def _arrival(self, numbers: set[int], within: float) -> bool:
        until = time.monotonic() + within
        while not numbers <= self._arrived.keys():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _took(self, before: dict[str, Any], began: float, written: Sequence[float], idle: Idle) -> Series:
        after, took = await self._usage(), time.monotonic() - began
        cpu = after["cpu_s"] - before["cpu_s"]
        series = Series(
            self._latencies(written),
            0,
            (cpu - idle.cpu * took) * 1000 / len(written),
            (after["reads"] - before["reads"]) * 60 / took,
            cpu / took,
        )
        say(f"    {spread(series.latencies)}; {series.cpu_ms:.2f} ms of CPU per change")
        return series

    def _latencies(self, written: Sequence[float]) -> list[float]:
        return [(self._arrived[n] - at) * 1000 for n, at in enumerate(written) if n in self._arrived]

    async def _usage(self) -> dict[str, Any]:
        usage = await self._reader.ask(usage=True)
        self.errors = usage["errors"]
        counted = await self.side.reads()
        return usage if counted is None else usage | {"reads": counted}


@contextlib.asynccontextmanager
async def open_bench(kind: str, side: Side, fleet: Fleet) -> AsyncGenerator[Bench, None]:
    """Start a reader of this registry."""
    arrived: dict[int, float] = {}
    reader = await Child.start(
        "bench.registry.reader",
        kind,
        json.dumps(side.options),
        on_event=lambda event: arrived.update({event["number"]: event["at"]}),
    )
    try:
        side.watch(reader.pid)
        yield Bench(side, reader, fleet, arrived)
    finally:
        await reader.close()
