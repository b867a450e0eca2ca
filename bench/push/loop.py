"""What a change costs between catalog and encoded bytes, and how long large rebuilds hold up the loop.

Both are seen from inside the bridge (bench/push/inside.py), with a few proxies that follow everything of one type.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import cpu_seconds
from bench.push.catalog import Population
from bench.push.lines import Program
from bench.push.matrix import settled
from bench.push.servers import Place, Settings, Shape, subscribe
from bench.rows import Row, at_most, figure, say
from isthmus.xds.resource import TypeUrl

LARGE, SMALL, INSTANCES = 5_000, 500, 10
CHANGES = 60
PROXIES = 10

CHANGE_MS, CHANGE_RATIO, BLOCK_MS = 2.0, 10.0, 20.0
"""Targets."""


async def costs(place: Place) -> list[Row]:
    """The rows of both."""
    small, _ = await _measure(place, Population(SMALL, INSTANCES))
    large, blocks = await _measure(place, Population(LARGE, INSTANCES))
    longest = max(blocks, key=lambda what: blocks[what]["longest"])
    unit = f"ms of CPU, catalog to encoded bytes, one of {LARGE} x {INSTANCES} instances changed"
    found = [
        at_most("push.change_cpu_ms", large["catalog"], unit, CHANGE_MS),
        at_most("push.change_cpu_ratio_5000_over_500", large["catalog"] / small["catalog"], "times", CHANGE_RATIO),
        figure("push.change_cpu_500_ms", small["catalog"], unit.replace(str(LARGE), str(SMALL))),
        figure("push.change_whole_cpu_ms", large["whole"], "ms of CPU, etcd to encoded bytes, the same changes"),
        at_most(
            "push.longest_loop_block_ms", blocks[longest]["longest"], f"ms that the loop was late, {longest}", BLOCK_MS
        ),
    ]
    for what, block in blocks.items():
        name = f"push.loop_block_{what.replace(' ', '_')}_ms"
        found.append(
            figure(name, block["longest"], f"ms; the loop's own CPU time meanwhile: {block['longest_cpu']:.0f} ms")
        )
    return found


async def _measure(place: Place, population: Population) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians of the changes of single instances, and what was found at the first listing, then, and when all changed."""
    say(f"{population.services} x {population.instances} instances, seen from inside")
    await place.keys.fill(population)
    endpoints = Shape("endpoints", TypeUrl.ENDPOINT, population, delta=True)
    clusters = Shape("clusters", TypeUrl.CLUSTER, population)
    load, rng = place.load, random.Random(5)
    async with _open(place, f"inside-{population.services}") as (program, settings):
        blocks = {"first listing": await program.order({"do": "take"})}
        await load.order(subscribe(endpoints, settings.address, place, PROXIES))
        await settled(program.pid)
        await program.order({"do": "take"})
        cpu = cpu_seconds(program.pid)
        for number in range(CHANGES):
            await load.order({"do": "round"})
            await place.keys.put(*population.pair(rng.randrange(population.services), 0, weight=100 + number))
            await load.answer()
        await settled(program.pid)
        whole = (cpu_seconds(program.pid) - cpu) * 1000 / CHANGES
        blocks["one change"] = one = await program.order({"do": "take"})
        await place.keys.put_all(population.pairs(weight=20))
        await settled(program.pid)
        blocks["change of all endpoints"] = await program.order({"do": "take"})
        await load.order({"do": "close"})
        await load.order(subscribe(clusters, settings.address, place, PROXIES))
        await settled(program.pid)
        await program.order({"do": "take"})
        # As an operator does it who changes what instances speak that do not say it.
        config = settings.write("changed", default_protocol="grpc")
        await load.order({"do": "round"})
        await program.order({"do": "reload", "config": str(config)})
        await load.answer()
        await settled(program.pid)
        blocks["change of all clusters"] = await program.order({"do": "take"})
        await load.order({"do": "close"})
    return {"catalog": median(one["catalogs"]), "whole": whole}, blocks


@contextlib.asynccontextmanager
async def _open(place: Place, name: str) -> AsyncGenerator[tuple[Program, Settings], None]:
    settings = Settings(place.directory / name, place.etcd)
    argv: list[str | Path] = [sys.executable, "-m", "bench.push.inside", settings.path]
    async with Program(argv, settings.log) as program:
        await program.answer()
        await settings.ready(lambda: program.running)
        yield program, settings
