"""The bridge in a process that can be asked what nobody sees from outside: `python -m bench.push.inside CONFIG`.

It is the bridge of `isthmus serve`, and one task more, which notes how late the loop comes back to it. It says `{"started"}`.
The order `{"do": "take"}` is answered with what was found since the last one, and `{"do": "reload", "config"}` makes the bridge
take over another configuration.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from isthmus.bridge import bridge as wiring
from isthmus.bridge import logs
from isthmus.bridge.config import load
from isthmus.bridge.run import tune
from isthmus.registry.hub import Hub
from isthmus.registry.model import Catalog

TICK = 0.001
"""Seconds between two looks at the clock."""


class _Findings:
    """Milliseconds: the longest that the loop was late, the CPU time that it used meanwhile, and that of each catalog."""

    longest = 0.0
    longest_cpu = 0.0

    def __init__(self) -> None:
        self.catalogs: list[float] = []

    async def watch(self) -> None:
        """Look at the clock, for ever."""
        while True:
            wall, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(TICK)
            late = (time.monotonic() - wall - TICK) * 1000
            if late > self.longest:
                self.longest, self.longest_cpu = late, (time.thread_time() - cpu) * 1000


class _Hub(Hub):
    """The hub, which notes what it takes the bridge to carry a catalog through to the transport."""

    findings: _Findings

    async def catalogs(self) -> AsyncIterator[Catalog]:
        """The same catalogs."""
        async for catalog in super().catalogs():
            began = time.process_time()
            yield catalog
            self.findings.catalogs.append((time.process_time() - began) * 1000)


async def main(config: Path) -> None:
    """Serve until standard input ends."""
    findings = _Hub.findings = _Findings()
    setattr(wiring, "Hub", _Hub)  # noqa: B010 - mypy would have none of an assignment
    bridge = wiring.Bridge(load(config))
    watch = asyncio.create_task(findings.watch())
    await bridge.start()
    _say(started=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        if order["do"] == "reload":
            await bridge.reload(load(Path(order["config"])))
            _say(reloaded=True)
            continue
        _say(longest=findings.longest, longest_cpu=findings.longest_cpu, catalogs=findings.catalogs)
        findings.longest, findings.catalogs = 0.0, []
    watch.cancel()
    await bridge.stop()


def _say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    logs.configure("info")
    tune()
    asyncio.run(main(Path(sys.argv[1])))
