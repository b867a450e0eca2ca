"""One bridge with one Envoy, both real, and what a change takes to get through them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bridge import Bridge
from bench.machine import cpu_seconds
from bench.population import Change, Population
from bench.rows import quantile, say
from bench.web import Caller
from bench.wire import Wire
from bench.writer import Writer
from tests.servers.envoy import Envoy

LATEST = 30.0
"""Seconds after which a change that did not arrive ends the benchmark."""

PAUSE = 0.06
"""Seconds between two changes, on average: of random length, so that they do not fall in step with anything."""


@dataclass
class Mesh:
    """A bridge, its Envoy, the relay between them, a caller of Envoy's and a writer to the bridge's Consul."""

    bridge: Bridge
    wire: Wire
    caller: Caller
    writer: Writer
    synced_s: float
    """From the start of the bridge until it had read all of Consul."""


@dataclass
class Series:
    """What a series of changes took and cost. Latencies are in ms."""

    to_ack: list[float] = field(default_factory=list)
    to_request: list[float] = field(default_factory=list)
    by_kind: dict[str, list[float]] = field(default_factory=dict)
    departures: int = 0
    """Instances that were draining and then gone: the second change came by itself."""
    resources: int = 0
    """Of all types, as Envoy was sent them."""
    bytes: int = 0
    cpu_s: float = 0.0

    @property
    def cpu_ms_per_change(self) -> float:
        return self.cpu_s * 1000 / len(self.to_ack)

    @property
    def resources_per_change(self) -> float:
        return self.resources / (len(self.to_ack) + self.departures)

    @property
    def bytes_per_change(self) -> float:
        return self.bytes / (len(self.to_ack) + self.departures)


@contextlib.asynccontextmanager
async def open_mesh(
    directory: Path, consul: str, writer: Writer, options: Mapping[str, Any] | None = None
) -> AsyncIterator[Mesh]:
    """Start all of it and wait until Envoy is live; fails in the end if Envoy rejected anything."""
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        bridge = Bridge(directory / "bridge", consul, options or {})
        began = time.monotonic()
        bridge.start()
        stack.callback(bridge.stop)
        await bridge.ready()
        synced_s = time.monotonic() - began
        wire = Wire(bridge.xds_port)
        stack.callback(wire.close)
        envoy = Envoy(directory, await wire.listen())
        envoy.start()
        stack.callback(envoy.stop)
        await envoy.ready()
        caller = Caller(bridge.outbound_port)
        stack.callback(caller.close)
        yield Mesh(bridge, wire, caller, writer, synced_s)
        if rejected := await envoy.rejected():
            raise RuntimeError(f"Envoy rejected configuration: {rejected}")


async def measure(
    mesh: Mesh, population: Population, services: Sequence[int], rng: random.Random, pause: float = PAUSE
) -> Series:
    """One change after another, the next one of each service named."""
    took = Series()
    leaving: dict[str, asyncio.Future[float]] = {}
    mesh.wire.resources.clear()
    mesh.wire.bytes = 0
    cpu = cpu_seconds(mesh.bridge.pid)
    for service in services:
        change = population.advance(service)
        to_ack, to_request = await _through(mesh, change)
        took.to_ack.append(to_ack)
        took.by_kind.setdefault(change.kind, []).append(to_ack)
        if to_request is not None:
            took.to_request.append(to_request)
        # One that comes back in time never is gone: then this waits for the next time that it leaves.
        if change.gone is not None and (change.cluster not in leaving or leaving[change.cluster].done()):
            leaving[change.cluster] = mesh.wire.expect(change.cluster, change.gone)
            took.departures += 1
        await asyncio.sleep(rng.uniform(0.5, 1.5) * pause)
    async with asyncio.timeout(LATEST):
        await asyncio.gather(*leaving.values())
    took.cpu_s = cpu_seconds(mesh.bridge.pid) - cpu
    took.resources, took.bytes = mesh.wire.resources.total(), mesh.wire.bytes
    _report(took, mesh)
    return took


async def _through(mesh: Mesh, change: Change) -> tuple[float, float | None]:
    """Milliseconds from just before the write until Envoy's acknowledgement, and until the new endpoint's first answer."""
    acked = mesh.wire.expect(change.cluster, change.shows)
    try:
        async with asyncio.timeout(LATEST):
            began = time.monotonic()
            write = asyncio.create_task(mesh.writer.apply(change))
            answered = await mesh.caller.until(change.host, change.answers) if change.answers else None
            await write
            at = await acked
    except TimeoutError:
        raise RuntimeError(f"{change.kind} of {change.cluster}: not at Envoy within {LATEST:g} s") from None
    return (at - began) * 1000, None if answered is None else (answered - began) * 1000


def spread(values: Sequence[float]) -> str:
    """A distribution of milliseconds, for people."""
    if not values:
        return "none"
    p50, p90, p99 = (quantile(values, share) for share in (0.5, 0.9, 0.99))
    return f"p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f}, max {max(values):.1f} ms ({len(values)})"


def _report(took: Series, mesh: Mesh) -> None:
    for kind, values in took.by_kind.items():
        say(f"    {kind:9}{spread(values)}")
    say(f"    all to ACK {spread(took.to_ack)}")
    say(f"    first request {spread(took.to_request)}; {mesh.caller.requests} requests, {mesh.caller.failed} failed")
    say(f"    resources {dict(mesh.wire.resources)}, of which {took.departures} departures")
