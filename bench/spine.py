"""The spine: from a write to a real Consul until a real Envoy has acknowledged it and sends requests accordingly.

Two catalogs are measured: a small one, and `LARGE` services with ten instances each. Everything runs on one machine: Consul, the
bridge in a process of its own, Envoy, and this process, which writes, relays the xDS connection to see it, serves the instances
and sends requests. The figures contain the competition of all these for the CPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec

from bench.bridge import Bridge
from bench.machine import cpu_seconds, resident_kb
from bench.population import CYCLE, INSTANCES, Change, Population
from bench.rows import Row, at_most, figure, quantile
from bench.streams import Arrival
from bench.web import Caller, Instances
from bench.wire import Wire
from bench.writer import Writer
from isthmus.registry.consul.reading import LONG_WAIT
from tests.servers.consul import Consul
from tests.servers.envoy import Envoy
from tests.servers.process import free_port

SMALL, LARGE = 20, 1_000
CHANGES = 200
NEW_ENDPOINTS = 3
"""Changes of the cycle after which there is a new endpoint."""
STREAMS = (100, 500)
STREAM_CHANGES = 60

SETTLE = 3.0
"""Seconds of quiet before memory is read and a measurement begins."""
LATEST = 30.0
"""Seconds after which a change that did not arrive ends the benchmark."""
IDLE_SECONDS, LONG_IDLE_SECONDS = 120.0, 1200.0
CHURN_SECONDS = 60.0
CHURN_SHARE = 0.1
"""Share of the instances that is replaced in a minute."""

ISTIO = "Istio's Consul adapter: 6,000 to 8,000 ms; sovereign allows 30,000 ms (published figures, not measured here)"


@dataclass
class Latencies:
    """What one series of changes took, in ms, and what it cost."""

    to_ack: list[float] = field(default_factory=list)
    to_request: list[float] = field(default_factory=list)
    by_kind: dict[str, list[float]] = field(default_factory=dict)
    resources: int = 0
    others: int = 0
    """Resources of other types than endpoints."""
    bytes: int = 0
    cpu_ms: float = 0.0

    @property
    def changes(self) -> int:
        return len(self.to_ack)


@dataclass
class Mesh:
    """One bridge with one Envoy, and the relay between them."""

    bridge: Bridge
    envoy: Envoy
    wire: Wire
    caller: Caller
    writer: Writer
    synced_s: float


async def run() -> list[Row]:
    """All of it, in about ten minutes (`BENCH_LONG=1`: twenty); the rows."""
    rng = random.Random(3)
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-bench-")))
        consul = await Consul.start_dev(directory / "consul")
        stack.callback(consul.stop)
        writer = Writer(consul.address)
        stack.push_async_callback(writer.close)
        instances = Instances()
        stack.callback(instances.close)
        port = free_port()

        small = Population(SMALL, port)
        await instances.listen((a for s in range(SMALL) for a in small.addresses(s)), port)
        async with _mesh(directory / "small", consul, writer) as mesh:
            rows, empty_kb = await _small(mesh, small, rng)

        large = Population(LARGE, port)
        await writer.apply_all(large.operations(SMALL))
        chosen = rng.sample(range(SMALL, LARGE), CHANGES)
        await instances.listen((a for s in chosen for a in large.addresses(s)), port)
        for service in chosen:
            for _ in range(rng.randrange(len(CYCLE))):
                await writer.apply(large.advance(service))
        async with _mesh(directory / "large", consul, writer) as mesh:
            return rows + await _large(mesh, large, chosen, rng, empty_kb)


async def _small(mesh: Mesh, population: Population, rng: random.Random) -> tuple[list[Row], float]:
    """Latencies with a small catalog, one Envoy and many proxies; and the memory of a bridge that knows nothing."""
    await asyncio.sleep(SETTLE)
    empty_kb = resident_kb(mesh.bridge.pid)
    await mesh.writer.apply_all(population.operations())
    await asyncio.sleep(SETTLE)

    _say(f"{SMALL} services, changes in turn")
    # Enough rounds for CHANGES new endpoints.
    services = [rng.randrange(SMALL) for _ in range(-(-CHANGES // NEW_ENDPOINTS))]
    took = await _series(mesh, population, [s for s in services for _ in CYCLE], rng)
    rows = [
        figure("spine.write_to_ack_p50_ms", quantile(took.to_ack, 0.5), "ms"),
        at_most("spine.write_to_ack_p99_ms", quantile(took.to_ack, 0.99), "ms", 250, ISTIO),
        figure("spine.write_to_first_request_p50_ms", quantile(took.to_request, 0.5), "ms"),
        at_most("spine.write_to_first_request_p99_ms", quantile(took.to_request, 0.99), "ms", 250, ISTIO),
        figure("spine.cpu_per_change_ms", took.cpu_ms / took.changes, "ms"),
        figure(f"spine.resources_per_instance_change_{SMALL}_services", took.resources / took.changes, "resources"),
        figure(f"spine.bytes_per_instance_change_{SMALL}_services", took.bytes / took.changes, "bytes"),
    ]
    for number in STREAMS:
        _say(f"{number} streams")
        rows += await _fan_out(mesh, population, number, rng)
    return rows, empty_kb


async def _large(
    mesh: Mesh,
    population: Population,
    chosen: Sequence[int],
    rng: random.Random,
    empty_kb: float,
) -> list[Row]:
    """The same with a large catalog, its memory, and how much Consul is asked."""
    await asyncio.sleep(SETTLE)
    memory = (resident_kb(mesh.bridge.pid) - empty_kb) / (LARGE * INSTANCES)
    rows = [
        figure("spine.synced_s", mesh.synced_s, f"s from start to {LARGE} services read"),
        figure("spine.memory_kb_per_instance", memory, "KiB"),
        *await _idle(mesh.bridge),
    ]
    _say(f"{LARGE} services, changes everywhere")
    spread = await _series(mesh, population, chosen, rng)
    _say(f"{LARGE} services, changes in turn")
    turns = await _series(mesh, population, [s for s in chosen[:SMALL] for _ in CYCLE], rng)
    per_change = [s.resources / s.changes for s in (spread, turns)]
    rows += [
        figure(f"spine.write_to_ack_{LARGE}_services_p50_ms", quantile(spread.to_ack, 0.5), "ms"),
        at_most(f"spine.write_to_ack_{LARGE}_services_p99_ms", quantile(spread.to_ack, 0.99), "ms", 250, ISTIO),
        figure(f"spine.write_to_first_request_{LARGE}_services_p50_ms", quantile(spread.to_request, 0.5), "ms"),
        figure(f"spine.write_to_first_request_{LARGE}_services_p99_ms", quantile(spread.to_request, 0.99), "ms"),
        figure(f"spine.write_to_ack_{LARGE}_services_in_turn_p50_ms", quantile(turns.to_ack, 0.5), "ms"),
        figure(f"spine.write_to_ack_{LARGE}_services_in_turn_p99_ms", quantile(turns.to_ack, 0.99), "ms"),
        figure(f"spine.cpu_per_change_{LARGE}_services_ms", spread.cpu_ms / spread.changes, "ms"),
        figure(f"spine.cpu_per_change_{LARGE}_services_in_turn_ms", turns.cpu_ms / turns.changes, "ms"),
        at_most("spine.resources_per_instance_change", max(per_change), "resources", 1),
        figure("spine.bytes_per_instance_change", spread.bytes / spread.changes, "bytes"),
    ]
    _say("churn")
    return rows + await _churn(mesh, population, rng)


@contextlib.asynccontextmanager
async def _mesh(directory: Path, consul: Consul, writer: Writer) -> AsyncIterator[Mesh]:
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        bridge = Bridge(directory / "bridge", consul.address)
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
        yield Mesh(bridge, envoy, wire, caller, writer, synced_s)
        assert not (rejected := await envoy.rejected()), f"Envoy rejected configuration: {rejected}"


async def _series(mesh: Mesh, population: Population, services: Sequence[int], rng: random.Random) -> Latencies:
    """One change after another, each in the service named, with a pause of random length between them."""
    took = Latencies()
    wire = mesh.wire
    wire.resources.clear()
    wire.bytes = 0
    cpu = cpu_seconds(mesh.bridge.pid)
    for service in services:
        change = population.advance(service)
        to_ack, to_request = await _change(mesh, change)
        took.to_ack.append(to_ack)
        took.by_kind.setdefault(change.kind, []).append(to_ack)
        if to_request is not None:
            took.to_request.append(to_request)
        await asyncio.sleep(rng.uniform(0.02, 0.1))
    took.cpu_ms = (cpu_seconds(mesh.bridge.pid) - cpu) * 1000
    took.resources, took.bytes = wire.resources.total(), wire.bytes
    for kind, values in took.by_kind.items():
        _say(f"  {kind}: {_spread(values)}")
    _say(f"  all: {_spread(took.to_ack)}; first request: {_spread(took.to_request)}; resources {dict(wire.resources)}")
    _say(f"  requests: {mesh.caller.requests}, failed {mesh.caller.failed}")
    return took


async def _change(mesh: Mesh, change: Change) -> tuple[float, float | None]:
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


async def _fan_out(mesh: Mesh, population: Population, number: int, rng: random.Random) -> list[Row]:
    """Changes with many more proxies connected."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.streams", f"127.0.0.1:{mesh.bridge.xds_port}", str(number)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert child.stdout is not None
        memory = resident_kb(mesh.bridge.pid)
        async with asyncio.timeout(120):
            ready = await child.stdout.readline()
        assert ready == b"ready\n", f"the streams ended: {ready!r}"
        await asyncio.sleep(SETTLE)
        memory = resident_kb(mesh.bridge.pid) - memory
        last: list[float] = []
        cpu = cpu_seconds(mesh.bridge.pid)
        for service in [rng.randrange(SMALL) for _ in range(STREAM_CHANGES // len(CYCLE))]:
            for _ in CYCLE:
                change = population.advance(service)
                async with asyncio.timeout(LATEST):
                    began = time.monotonic()
                    await mesh.writer.apply(change)
                    arrival = msgspec.json.decode(await child.stdout.readline(), type=Arrival)
                assert arrival.name == change.cluster, f"{arrival.name} came, not {change.cluster}"
                last.append((arrival.last - began) * 1000)
                await asyncio.sleep(rng.uniform(0.05, 0.15))
        cpu_ms = (cpu_seconds(mesh.bridge.pid) - cpu) * 1000 / len(last)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    _say(
        f"  last of {number}: {_spread(last)}; {cpu_ms:.1f} ms of CPU per change; {memory / number:.0f} KiB per stream"
    )
    return [
        figure(f"spine.write_to_last_ack_{number}_streams_p50_ms", quantile(last, 0.5), "ms"),
        figure(f"spine.write_to_last_ack_{number}_streams_p99_ms", quantile(last, 0.99), "ms"),
        figure(f"spine.cpu_per_change_{number}_streams_ms", cpu_ms, "ms"),
        figure(f"spine.memory_kb_per_stream_{number}_streams", memory / number, "KiB"),
    ]


async def _idle(bridge: Bridge) -> list[Row]:
    """What Consul is asked while nothing changes.

    In a window shorter than the longest wait, blocking queries on single services do not return, and nothing is read that waits
    its ten minutes. So one read per service and `LONG_WAIT`, and one of the checks, are added by arithmetic to what is counted.
    """
    long = os.environ.get("BENCH_LONG") == "1"
    window = LONG_IDLE_SECONDS if long else IDLE_SECONDS
    _say(f"idle for {window:g} s")
    reads, cpu, began = await bridge.metric("isthmus_registry_reads_total"), cpu_seconds(bridge.pid), time.monotonic()
    await asyncio.sleep(window)
    took = time.monotonic() - began
    counted = (await bridge.metric("isthmus_registry_reads_total") - reads) * 600 / took
    added = 0.0 if long else (LARGE + 1) * 600 / LONG_WAIT
    how = f"counted over {took:.0f} s" + ("" if long else f", plus {added:.0f} that wait {LONG_WAIT:g} s")
    return [
        at_most("spine.idle_reads_per_service_10min", (counted + added) / LARGE, f"reads ({how})", 2),
        figure("spine.idle_reads_per_minute", (counted + added) / 10, "reads"),
        figure("spine.idle_cpu_percent", (cpu_seconds(bridge.pid) - cpu) / took * 100, "% of one CPU"),
    ]


async def _churn(mesh: Mesh, population: Population, rng: random.Random) -> list[Row]:
    """Instances replaced all over, at a steady pace whether or not the bridge keeps up."""
    every = 60 / (LARGE * INSTANCES * CHURN_SHARE)
    count = round(CHURN_SECONDS / every)
    arrivals: list[tuple[float, asyncio.Future[float]]] = []
    # Each instance once, so that an arrival is not waited for that the next replacement has overtaken.
    wanted = rng.sample([(s, i) for s in range(LARGE) for i in range(INSTANCES)], count)
    bridge = mesh.bridge
    reads, cpu = await bridge.metric("isthmus_registry_reads_total"), cpu_seconds(bridge.pid)
    mesh.wire.resources.clear()
    began = time.monotonic()
    for number, (service, instance) in enumerate(wanted):
        await asyncio.sleep(began + number * every - time.monotonic())
        new, old = population.replace(service, instance)
        arrivals.append((time.monotonic(), mesh.wire.expect(new.cluster, new.shows)))
        await mesh.writer.apply(new)
        await mesh.writer.apply(old)
    took = time.monotonic() - began
    reads, cpu = await bridge.metric("isthmus_registry_reads_total") - reads, cpu_seconds(bridge.pid) - cpu
    async with asyncio.timeout(2 * LATEST):
        to_ack = [(await future - at) * 1000 for at, future in arrivals]
    _say(f"  {count} replaced in {took:.1f} s: {_spread(to_ack)}; resources {dict(mesh.wire.resources)}")
    unit = f"ms, {CHURN_SHARE:.0%} of instances replaced per minute"
    return [
        figure("spine.churn_reads_per_minute", reads * 60 / took, "reads"),
        figure("spine.churn_write_to_ack_p50_ms", quantile(to_ack, 0.5), unit),
        figure("spine.churn_write_to_ack_p99_ms", quantile(to_ack, 0.99), unit, ISTIO),
        figure("spine.churn_cpu_percent", cpu / took * 100, "% of one CPU"),
        figure("spine.churn_cpu_per_change_ms", cpu * 1000 / (2 * count), "ms"),
        figure("spine.churn_memory_mib", resident_kb(bridge.pid) / 1024, "MiB, afterwards"),
    ]


async def versions(consul: str) -> str:
    """Of the peers."""
    async with aiohttp.ClientSession() as session, session.get(f"{consul}/v1/agent/self") as answer:
        version: str = json.loads(await answer.read())["Config"]["Version"]
    return version


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"p50 {quantile(values, 0.5):.1f} p99 {quantile(values, 0.99):.1f} max {max(values):.1f} ms ({len(values)})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
