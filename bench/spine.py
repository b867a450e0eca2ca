"""The spine: from a write to a real Consul until a real Envoy has acknowledged it and sends requests accordingly.

Two catalogs are measured: a small one, and `LARGE` services with ten instances each. Everything runs on one machine: Consul, the
bridge in a process of its own, Envoy, and this process, which writes, relays the xDS connection to see it, serves the instances
and sends requests. The figures contain the competition of all these for the CPUs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.bridge import Bridge
from bench.machine import cpu_seconds, resident_kb
from bench.mesh import LATEST, Mesh, Series, measure, open_mesh, spread
from bench.population import CYCLE, INSTANCES, Population
from bench.rows import Row, at_most, figure, quantile, say
from bench.streams import Arrival
from bench.web import Instances
from bench.writer import Writer
from isthmus.registry.consul.services import LONG_WAIT
from isthmus.registry.source import SourceRules
from tests.servers.consul import Consul
from tests.servers.process import free_port

SMALL, LARGE = 20, 1_000
CHANGES, BURST = 200, 60
NEW_ENDPOINTS = 3
"""Changes of the cycle after which there is a new endpoint."""
STREAMS = (100, 500)
STREAM_CHANGES = 60
ALL_WATCHED = LARGE + 100
"""Connections with which the bridge gives each service a blocking query of its own."""

AUDIT = SourceRules().audit
"""Seconds between two audits, as one gets it who configures nothing."""
SETTLE = 3.0
"""Seconds of quiet before memory is read and a measurement begins."""
IDLE_SECONDS, LONG_IDLE_SECONDS = 120.0, 1200.0
CHURN_SECONDS = 60.0
CHURN_SHARE = 0.1
"""Share of the instances that is replaced in a minute."""

LATENCY = 250.0
"""Target, in ms."""
ISTIO = "Istio's Consul adapter: 6,000 to 8,000 ms; sovereign allows 30,000 ms (published figures, not measured here)"
CHURN = f"ms, {CHURN_SHARE:.0%} of instances replaced per minute"


async def run() -> list[Row]:
    """All of it, in about ten minutes (`BENCH_LONG=1`: half an hour); the rows."""
    rng = random.Random(3)
    # Thousands of instances listen.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-bench-")))
        # The bridge keeps to Consul's default of 200 by itself, except where it is told otherwise.
        consul = await Consul.start_dev(directory / "consul", {"limits": {"http_max_conns_per_client": 2 * LARGE}})
        stack.callback(consul.stop)
        say(f"Consul {(await consul.get('/v1/agent/self'))['Config']['Version']}")
        writer = Writer(consul.address)
        stack.push_async_callback(writer.close)
        instances = Instances()
        stack.callback(instances.close)
        port = free_port()

        small = Population(SMALL, port)
        await instances.listen((a for s in range(SMALL) for a in small.addresses(s)), port)
        async with open_mesh(directory / "small", consul.address, writer) as mesh:
            rows, empty_kb = await _small(mesh, small, rng)

        large = Population(LARGE, port)
        await writer.apply_all(large.operations(SMALL))
        chosen = rng.sample(range(SMALL, LARGE), CHANGES + BURST)
        await instances.listen((a for s in chosen for a in large.addresses(s)), port)
        for service in chosen:
            for _ in range(rng.randrange(len(CYCLE))):
                await writer.apply(large.advance(service))
        async with open_mesh(directory / "large", consul.address, writer) as mesh:
            rows += await _large(mesh, large, chosen, rng, empty_kb)
        options = {"max_connections": ALL_WATCHED}
        async with open_mesh(directory / "watched", consul.address, writer, options) as mesh:
            return rows + await _watched(mesh, large, chosen[:CHANGES], rng, empty_kb)


async def _small(mesh: Mesh, population: Population, rng: random.Random) -> tuple[list[Row], float]:
    """Latencies with a small catalog, one Envoy and many proxies; and the memory of a bridge that knows nothing."""
    await asyncio.sleep(SETTLE)
    empty_kb = resident_kb(mesh.bridge.pid)
    await mesh.writer.apply_all(population.operations())
    await asyncio.sleep(SETTLE)

    say(f"{SMALL} services x {INSTANCES} instances")
    # Enough rounds for CHANGES new endpoints.
    services = [rng.randrange(SMALL) for _ in range(-(-CHANGES // NEW_ENDPOINTS))]
    took = await measure(mesh, population, [s for s in services for _ in CYCLE], rng)
    rows = [
        figure("spine.write_to_ack_p50_ms", quantile(took.to_ack, 0.5), "ms"),
        at_most("spine.write_to_ack_p99_ms", quantile(took.to_ack, 0.99), "ms", LATENCY, ISTIO),
        figure("spine.write_to_first_request_p50_ms", quantile(took.to_request, 0.5), "ms"),
        figure("spine.write_to_first_request_p99_ms", quantile(took.to_request, 0.99), "ms", ISTIO),
        figure("spine.cpu_per_change_ms", took.cpu_ms_per_change, "ms"),
        *_on_the_wire(f"_{SMALL}_services", took),
    ]
    for number in STREAMS:
        say(f"{number} streams beside Envoy")
        rows += await _fan_out(mesh, population, number, rng)
    return rows, empty_kb


async def _large(
    mesh: Mesh, population: Population, chosen: Sequence[int], rng: random.Random, empty_kb: float
) -> list[Row]:
    """The same with a large catalog, its memory, and how much Consul is asked."""
    await asyncio.sleep(SETTLE)
    memory = (resident_kb(mesh.bridge.pid) - empty_kb) / (LARGE * INSTANCES)
    rows = [
        figure("spine.synced_s", mesh.synced_s, f"s from its start until {LARGE} services are read"),
        figure("spine.memory_kb_per_instance", memory, "KiB"),
        *await _idle(mesh.bridge),
    ]
    say(f"{LARGE} services x {INSTANCES} instances, each change in another service, one a second")
    paced = await measure(mesh, population, chosen[:CHANGES], rng, 1.0)
    say("the same at once")
    burst = await measure(mesh, population, chosen[CHANGES:], rng)
    p99 = quantile(paced.to_ack, 0.99)
    return [
        *rows,
        at_most(f"spine.write_to_ack_{LARGE}_services_p99_ms", p99, "ms, one change a second", LATENCY, ISTIO),
        *_latencies(f"{LARGE}_services", paced, "one change a second"),
        *_on_the_wire("", paced),
        figure(
            f"spine.write_to_ack_{LARGE}_services_burst_p99_ms", quantile(burst.to_ack, 0.99), "ms, one after another"
        ),
        *_latencies(f"{LARGE}_services_burst", burst, "one after another"),
        *await _churn(mesh, population, "", rng),
    ]


async def _watched(
    mesh: Mesh, population: Population, chosen: Sequence[int], rng: random.Random, empty_kb: float
) -> list[Row]:
    """The large catalog for one who has raised the limits of connections, in Consul and in the bridge."""
    await asyncio.sleep(SETTLE)
    memory = (resident_kb(mesh.bridge.pid) - empty_kb) / (LARGE * INSTANCES)
    say(f"the same with max_connections {ALL_WATCHED}")
    took = await measure(mesh, population, chosen, rng)
    p99 = quantile(took.to_ack, 0.99)
    return [
        figure("spine.memory_kb_per_instance_watched", memory, f"KiB, with max_connections {ALL_WATCHED}"),
        at_most(f"spine.write_to_ack_{LARGE}_services_watched_p99_ms", p99, "ms, one after another", LATENCY, ISTIO),
        *_latencies(f"{LARGE}_services_watched", took, "one after another"),
        *await _churn(mesh, population, "_watched", rng),
    ]


def _latencies(suffix: str, took: Series, pace: str) -> list[Row]:
    return [
        figure(f"spine.write_to_ack_{suffix}_p50_ms", quantile(took.to_ack, 0.5), f"ms, {pace}"),
        figure(f"spine.write_to_first_request_{suffix}_p50_ms", quantile(took.to_request, 0.5), f"ms, {pace}"),
        figure(f"spine.write_to_first_request_{suffix}_p99_ms", quantile(took.to_request, 0.99), f"ms, {pace}"),
        figure(f"spine.cpu_per_change_{suffix}_ms", took.cpu_ms_per_change, f"ms, {pace}"),
    ]


def _on_the_wire(suffix: str, took: Series) -> list[Row]:
    unit = "resources of all types; a departure is two changes, draining and gone"
    return [
        at_most(f"spine.resources_per_instance_change{suffix}", took.resources_per_change, unit, 1),
        figure(f"spine.bytes_per_instance_change{suffix}", took.bytes_per_change, "bytes"),
    ]


async def _fan_out(mesh: Mesh, population: Population, number: int, rng: random.Random) -> list[Row]:
    """Changes with many more proxies connected, in a process of their own."""
    pid = mesh.bridge.pid
    memory = resident_kb(pid)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.streams", f"127.0.0.1:{mesh.bridge.xds_port}", str(number)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout is not None
    last: list[float] = []
    try:
        async with asyncio.timeout(4 * LATEST):
            assert await child.stdout.readline() == b"ready\n", "the streams ended"
        await asyncio.sleep(SETTLE)
        memory = resident_kb(pid) - memory
        cpu = cpu_seconds(pid)
        for service in rng.sample(range(SMALL), STREAM_CHANGES // len(CYCLE)):
            for _ in CYCLE:
                change = population.advance(service)
                acked = mesh.wire.expect(change.cluster, change.shows)
                async with asyncio.timeout(LATEST):
                    began = time.monotonic()
                    await mesh.writer.apply(change)
                    await acked
                    last.append((await _arrival(child.stdout, change.cluster, began) - began) * 1000)
                await asyncio.sleep(rng.uniform(0.05, 0.15))
        cpu_ms = (cpu_seconds(pid) - cpu) * 1000 / len(last)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    say(f"    last ACK {spread(last)}; {cpu_ms:.1f} ms of CPU per change; {memory / number:.0f} KiB per stream")
    return [
        figure(f"spine.write_to_last_ack_{number}_streams_p50_ms", quantile(last, 0.5), "ms"),
        figure(f"spine.write_to_last_ack_{number}_streams_p99_ms", quantile(last, 0.99), "ms"),
        figure(f"spine.cpu_per_change_{number}_streams_ms", cpu_ms, "ms"),
        figure(f"spine.memory_kb_per_stream_{number}_streams", memory / number, "KiB"),
    ]


async def _arrival(lines: asyncio.StreamReader, cluster: str, began: float) -> float:
    """When the last stream acknowledged what was written at `began`; instances of other services may be gone meanwhile."""
    while True:
        arrival = msgspec.json.decode(await lines.readline(), type=Arrival)
        if arrival.name == cluster and arrival.last >= began:
            return arrival.last


async def _idle(bridge: Bridge) -> list[Row]:
    """What Consul is asked while nothing changes.

    In a window of two minutes, blocking queries on single services do not return, nothing is read that waits its ten minutes, and
    no audit is due. So to what is counted are added, by arithmetic, one read per service and `LONG_WAIT`, one of the checks, and
    one per service and audit. The long window counts the former, and the latter if it happens to be due.
    """
    long = os.environ.get("BENCH_LONG") == "1"
    window = LONG_IDLE_SECONDS if long else IDLE_SECONDS
    say(f"{LARGE} services, idle for {window:g} s")
    reads, cpu, began = await bridge.metric("isthmus_registry_reads_total"), cpu_seconds(bridge.pid), time.monotonic()
    await asyncio.sleep(window)
    took = time.monotonic() - began
    counted = (await bridge.metric("isthmus_registry_reads_total") - reads) * 600 / took
    added = 0.0 if long else (LARGE + 1) * (600 / LONG_WAIT + 600 / AUDIT)
    how = f"counted over {took:.0f} s" + ("" if long else f", plus {added:.0f} that come less often")
    return [
        at_most("spine.idle_reads_per_service_10min", (counted + added) / LARGE, f"reads ({how})", 2),
        figure("spine.idle_reads_per_minute", (counted + added) / 10, "reads"),
        figure("spine.idle_cpu_percent", (cpu_seconds(bridge.pid) - cpu) / took * 100, "% of one CPU"),
    ]


async def _churn(mesh: Mesh, population: Population, suffix: str, rng: random.Random) -> list[Row]:
    """Instances replaced all over, at a steady pace whether or not the bridge keeps up."""
    every = 60 / (LARGE * INSTANCES * CHURN_SHARE)
    count = round(CHURN_SECONDS / every)
    say(f"{count} instances replaced, one every {every * 1000:.0f} ms")
    # Each instance once, so that no arrival is waited for that the next replacement has overtaken.
    wanted = rng.sample([(s, i) for s in range(LARGE) for i in range(INSTANCES)], count)
    bridge = mesh.bridge
    arrivals: list[tuple[float, asyncio.Future[float]]] = []
    reads, cpu = await bridge.metric("isthmus_registry_reads_total"), cpu_seconds(bridge.pid)
    began = time.monotonic()
    for number, (service, instance) in enumerate(wanted):
        await asyncio.sleep(began + number * every - time.monotonic())
        new, old = population.replace(service, instance)
        arrivals.append((time.monotonic(), mesh.wire.expect(new.cluster, new.shows)))
        await mesh.writer.apply(new)
        await mesh.writer.apply(old)
    took = time.monotonic() - began
    reads, cpu = await bridge.metric("isthmus_registry_reads_total") - reads, cpu_seconds(bridge.pid) - cpu
    await asyncio.wait([future for _, future in arrivals], timeout=LATEST)
    to_ack = [(future.result() - at) * 1000 for at, future in arrivals if future.done()]
    missing = len(arrivals) - len(to_ack)
    say(f"    to ACK {spread(to_ack)}; {missing} never arrived")
    return [
        at_most(f"spine.churn{suffix}_missing", missing, f"changes that did not arrive within {LATEST:g} s", 0),
        figure(f"spine.churn{suffix}_reads_per_minute", reads * 60 / took, "reads"),
        figure(f"spine.churn{suffix}_write_to_ack_p50_ms", quantile(to_ack, 0.5), CHURN),
        figure(f"spine.churn{suffix}_write_to_ack_p99_ms", quantile(to_ack, 0.99), CHURN, ISTIO),
        figure(f"spine.churn{suffix}_cpu_percent", cpu / took * 100, "% of one CPU"),
        figure(f"spine.churn{suffix}_cpu_per_write_ms", cpu * 1000 / (2 * count), "ms"),
        figure(f"spine.churn{suffix}_memory_mib", resident_kb(bridge.pid) / 1024, "MiB, all of the bridge, afterwards"),
    ]
