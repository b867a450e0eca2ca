"""How long an application that fails its Nomad check is still called: the shipped jobs, on a Nomad of two clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import aiohttp

from bench.rows import Row, at_most, quantile, say
from tests.servers.nomad_jobs import NomadJobs, bookinfo, reviews
from tests.wait import eventually

TURNS = 5
QUIET = 5.0
"""Seconds without an answer from it, after which the last one is taken for the last: it has a sixth of several hundred."""


async def rows() -> list[Row]:
    """Measure, in two minutes."""
    say("starting Nomad, the bridge, a gateway and Bookinfo from their jobs")
    async with bookinfo() as jobs:
        took = [await _turn(jobs) for _ in range(TURNS)]
    median = f"the slowest of {TURNS}, their median {quantile(took, 0.5):.1f}; Nomad checks every second"
    return [at_most("agent.nomad_failing_check_s", max(took), "s until its last call", 3.0, median)]


async def _turn(jobs: NomadJobs) -> float:
    """Seconds from the moment in which an application is no longer well to the last call that it gets."""
    name, process = await jobs.an_instance_of("reviews-v1")
    async with jobs.load("productpage") as load:
        await eventually(lambda: name in reviews(load), "it is called", 60)
    os.kill(process, signal.SIGUSR1)
    unwell = last = time.monotonic()
    async with aiohttp.ClientSession(headers={"Host": "productpage"}) as session:
        while time.monotonic() - last < QUIET:
            async with session.get(f"http://127.0.0.1:{jobs.gateway_port}/") as answer:
                page = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"expected 200, got {answer.status} {page[:200]}")
            if json.loads(page)["reviews"]["instance"] == name:
                last = time.monotonic()
    os.kill(process, signal.SIGUSR1)
    say(f"  its last call after {last - unwell:.2f} s")
    return last - unwell


if __name__ == "__main__":
    for row in asyncio.run(rows()):
        print(row)
