"""A minute in which a tenth of the instances is replaced and a tenth of the proxies comes back: what it costs the bridge."""

from __future__ import annotations

import asyncio
import time

from prometheus_client.parser import text_string_to_metric_families

from bench.machine import cpu_seconds
from bench.push.catalog import Population
from bench.push.matrix import settled
from bench.push.servers import ISTHMUS, Isthmus, Place, Shape, start, subscribe
from bench.rows import Row, figure, say
from isthmus.xds.resource import TypeUrl

SHAPE = Shape("churn", TypeUrl.ENDPOINT, Population(1_000, 10), delta=True)
PROXIES = 100
SHARE = 0.1
"""Of the instances, and of the proxies, in a minute."""
SECONDS = 60.0


async def churn(place: Place) -> list[Row]:
    """Both at a steady pace, whether or not the bridge keeps up."""
    population = SHAPE.population
    count = round(population.services * population.instances * SHARE * SECONDS / 60)
    each = round(count / (PROXIES * SHARE * SECONDS / 60))
    say(f"{count} instances replaced and {count // each} proxies reconnected in {SECONDS:g} s, {PROXIES} proxies")
    async with start([ISTHMUS], SHAPE, place, place.directory / "churn") as (server,):
        assert isinstance(server, Isthmus)
        await place.load.order(subscribe(SHAPE, server.address, place, PROXIES))
        await settled(server.pid)
        await place.load.order({"do": "count"})
        cpu, began = cpu_seconds(server.pid), time.monotonic()
        for number in range(count):
            await asyncio.sleep(began + number * SECONDS / count - time.monotonic())
            service, instance = number % population.services, number // population.services
            old, _ = population.pair(service, instance)
            await place.keys.replace(old, *population.pair(service, instance + population.instances))
            if number % each == 0:
                await place.load.order({"do": "reconnect", "number": 1})
        took = time.monotonic() - began
        cpu = cpu_seconds(server.pid) - cpu
        counted = await place.load.order({"do": "count"})
        p99 = _quantile(await server.settings.page("/metrics"), 0.99)
        await place.load.order({"do": "close"})
    unit = f"{SHARE:.0%} of {population.services} x {population.instances} instances and of {PROXIES} proxies a minute"
    return [
        figure("push.isthmus.churn.cpu_percent", cpu / took * 100, f"% of one CPU, {unit}"),
        figure("push.isthmus.churn.cpu_us", cpu * 1e6 / counted["responses"], f"us of CPU per push, {unit}"),
        figure("push.isthmus.churn.per_s", counted["responses"] / took, f"pushes/s, {unit}"),
        figure("push.isthmus.churn.resources_per_s", counted["resources"] / took, f"load assignments/s, {unit}"),
        figure("push.isthmus.churn.p99_ms", p99, "ms from reading to ACK, as the bridge's own histogram bounds it"),
    ]


def _quantile(metrics: str, share: float) -> float:
    """Milliseconds: the upper bound of the bucket that holds the quantile, of all load assignments."""
    samples = (sample for family in text_string_to_metric_families(metrics) for sample in family.samples)
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in samples
        if sample.name == "isthmus_change_to_ack_seconds_bucket" and sample.labels["type"] == TypeUrl.ENDPOINT.short
    ]
    buckets.sort()
    return next(bound for bound, count in buckets if count >= share * buckets[-1][1]) * 1000
