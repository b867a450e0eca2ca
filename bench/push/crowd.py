"""Thousands of proxies: how long until all of them are connected and configured, and what each costs that does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import resident_kb
from bench.push.matrix import settled
from bench.push.servers import PLAIN, Other, Place, Shape, start, subscribe
from tests.servers.envoy import Envoy
from tests.wait import eventually

CROWD = 5_000


@dataclass
class Crowd:
    """What was found of one server; a value for each time."""

    seconds: list[float] = field(default_factory=list)
    kb: list[float] = field(default_factory=list)


async def connect(labels: Sequence[str], shape: Shape, place: Place, times: int) -> dict[str, Crowd]:
    """All at once, to servers that were started just now: memory that was used before would not be seen."""
    found = {label: Crowd() for label in labels}
    for time in range(times):
        async with start(labels, shape, place, place.directory / f"crowd-{place.node.name}-{time}") as servers:
            for server in servers:
                crowd = found[server.label]
                before = resident_kb(server.pid)
                crowd.seconds.append(
                    (await place.load.order(subscribe(shape, server.address, place, CROWD)))["seconds"]
                )
                await settled(server.pid)
                crowd.kb.append((resident_kb(server.pid) - before) / CROWD)
                await place.load.order({"do": "close"})
                await settled(server.pid)
    return found


async def real_node(shape: Shape, place: Place) -> Path:
    """What a real Envoy says it is, in a file: 60 KB, for it names all its extensions."""
    directory = place.directory / "node"
    path = directory / "real"
    async with start([PLAIN], shape, place, directory) as (plain,):
        assert isinstance(plain, Other)
        envoy = Envoy(directory, plain.address)
        envoy.start()
        try:

            async def told() -> bool:
                return bool((await plain.order({"node": str(path)}))["node"])

            await eventually(told, "Envoy has said who it is", 30)
        finally:
            envoy.stop()
    return path
