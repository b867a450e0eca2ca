"""The left half: from a change in a registry until the catalog shows it, and what that costs.

Each platform's adapter with its source and the hub runs in a process of its own, against a registry in another: a scripted one
(Consul, Eureka, Nomad), or a real one (etcd, and Consul once more, smaller). Everything shares the machine.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from bench.registry import figures
from bench.registry.figures import Idle, Series
from bench.registry.measure import Bench, open_bench
from bench.registry.population import INSTANCES, NODES, Fleet, Kind
from bench.registry.sides import Side, consul, etcd, scripted
from bench.rows import Row, say
from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.services import LONG_WAIT
from isthmus.registry.etcd.session import PAGE
from isthmus.registry.eureka import EurekaConfig
from isthmus.registry.nomad import NomadConfig
from isthmus.registry.source import SourceRules

LARGE, SMALL = 5_000, 500
"""Services, with ten instances each."""
REAL, REAL_INSTANCES = 2_000, 5
"""The same for the real Consul."""

CHURN = 0.1
"""Share of all instances that change per minute."""
CHURN_SECONDS = 60.0
SMALL_IDLE = 5.0
UNHINTED, UNHINTED_PAUSE, UNHINTED_SECONDS = 200, 0.5, 20.0
"""Changes that no hint of Consul's names: so many, or as many as there is time for, since some take seconds."""

ALL: Sequence[Kind] = ("health", "weight", "address")
UNNAMED: Sequence[Kind] = ("weight", "address")


class Platform(msgspec.Struct, frozen=True):
    """How one platform is measured.

    `kinds` are those of the changes that do not meet, `pause` the seconds between two of them on average, `latency` the target
    for them in ms; without `waits` the next one is made whether or not the one before has arrived. `connections`, and `reads` per
    minute, are configured, or the adapter's own limit. `idle_seconds` hold what it does regularly. `others` is what others need.
    """

    kind: str
    kinds: Sequence[Kind]
    churned: Sequence[Kind]
    changes: int
    pause: float
    latency: float
    connections: int
    reads: float | None
    idle_seconds: float
    others: str
    waits: bool = True


CONSUL = Platform(
    "consul",
    ("health",),
    ALL,
    150,
    0.08,
    100,
    ConsulConfig().max_connections,
    ConsulConfig().max_reads_per_minute,
    22,
    "Istio's Consul adapter 6 to 8 s, Traefik polls each 15 s (published, not measured here)",
)
PLATFORMS = (
    CONSUL,
    Platform(
        "eureka",
        ALL,
        ALL,
        300,
        0.12,
        1_000,
        16,
        None,
        33,
        "Eureka's clients read each 30 s what is cached for 30 s (its defaults, not measured here)",
        waits=False,
    ),
    Platform("etcd", UNNAMED, UNNAMED, 200, 0.04, 100, 1, None, 11, "no figure of others is published"),
    Platform(
        "nomad",
        ALL,
        ALL,
        200,
        0.04,
        100,
        NomadConfig().max_connections,
        None,
        11,
        "Traefik polls each 15 s (published, not measured here)",
    ),
)


async def run() -> list[Row]:
    """All of it, in about twelve minutes; the rows."""
    rng = random.Random(7)
    began = time.monotonic()
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        for platform in PLATFORMS:
            found += await _platform(platform, Path(directory), rng)
            say(f"{time.monotonic() - began:.0f} s so far")
        found += await _real_consul(Path(directory) / "consul-real", rng)
    say(f"{time.monotonic() - began:.0f} s in all")
    return found


async def _platform(platform: Platform, directory: Path, rng: random.Random) -> list[Row]:
    kind = platform.kind
    say(f"{kind}: {LARGE} services x {INSTANCES} instances")
    fleet = Fleet(LARGE)
    async with _side(kind, directory / f"{kind}-large", fleet) as side, open_bench(kind, side, fleet) as bench:
        services = rng.sample(range(LARGE), LARGE)
        rows, large = await _at_length(platform, kind, bench, services, rng)
        rows += await _churn(platform, kind, bench, rng)
    say(f"{kind}: {SMALL} services x {INSTANCES} instances")
    fleet = Fleet(SMALL)
    async with _side(kind, directory / f"{kind}-small", fleet) as side, open_bench(kind, side, fleet) as bench:
        await bench.listed()
        idle = await bench.idle(SMALL_IDLE)
        small = await _apart(platform, bench, rng.sample(range(SMALL), SMALL), idle, rng)
    return [*rows, figures.of_ratio(kind, large, small)]


async def _real_consul(directory: Path, rng: random.Random) -> list[Row]:
    say(f"a real Consul: {REAL} services x {REAL_INSTANCES} instances")
    label = f"consul_real_{REAL}x{REAL_INSTANCES}"
    fleet = Fleet(REAL, REAL_INSTANCES)
    async with consul(directory, fleet) as side, open_bench("consul", side, fleet) as bench:
        rows, _ = await _at_length(CONSUL, label, bench, rng.sample(range(REAL), REAL), rng)
        return rows + await _churn(CONSUL, label, bench, rng)


def _side(kind: str, directory: Path, fleet: Fleet) -> AbstractAsyncContextManager[Side]:
    return etcd(directory, fleet) if kind == "etcd" else scripted(kind, fleet)


async def _at_length(
    platform: Platform, label: str, bench: Bench, services: Sequence[int], rng: random.Random
) -> tuple[list[Row], Series]:
    """The listing, rest, and changes one by one, each in the next of these services."""
    listed = await bench.listed()
    idle = await bench.idle(platform.idle_seconds)
    series = await _apart(platform, bench, services, idle, rng)
    rows = [
        *figures.of_listing(label, len(bench.fleet), listed),
        *figures.of_rest(label, idle, rare(platform.kind, bench.fleet.size, bench.fleet.instances)),
        *figures.of_changes(label, series, platform.kinds, platform.latency, platform.others),
        figures.of_cpu(label, series, idle),
    ]
    if platform is CONSUL:
        untouched = services[platform.changes :][:UNHINTED]
        changes = bench.fleet.changes(untouched, UNNAMED, rng)
        unhinted = await bench.one_by_one(changes, idle, UNHINTED_PAUSE, rng, UNHINTED_SECONDS)
        label = f"{label}_unhinted"
        rows += figures.of_changes(label, unhinted, UNNAMED, platform.latency, "services without a query of their own")
        rows.append(figures.of_cpu(label, unhinted, idle))
    return rows, series


async def _apart(platform: Platform, bench: Bench, services: Sequence[int], idle: Idle, rng: random.Random) -> Series:
    """Changes that do not meet."""
    changes = bench.fleet.changes(services[: platform.changes], platform.kinds, rng)
    if platform.waits:
        return await bench.one_by_one(changes, idle, platform.pause, rng)
    return await bench.steadily(changes, idle, 1 / platform.pause)


async def _churn(platform: Platform, label: str, bench: Bench, rng: random.Random) -> list[Row]:
    per_second = len(bench.fleet) * CHURN / 60
    changes = bench.fleet.churn(round(per_second * CHURN_SECONDS), platform.churned, rng)
    say(f"    {len(changes)} changes, {per_second:.0f} per second")
    series = await bench.steadily(changes, Idle(0, 0, 0), per_second)
    how = f"{per_second:.0f} changes per second for {CHURN_SECONDS:.0f} s"
    most, counted = await bench.side.most_connections()
    return [
        *figures.of_churn(label, series, how, platform.reads),
        figures.of_connections(label, most, platform.connections, counted),
        figures.of_errors(label, bench.errors),
    ]


def rare(kind: str, services: int, instances: int) -> float:
    """Reads per minute that the time of rest does not show: what ends a long wait, and the audits."""
    audits = 60 / SourceRules().audit
    match kind:
        case "consul":  # each service, and the checks that do not pass; an audit reads each service and the list
            return (services + 1) * (60 / LONG_WAIT + audits)
        case "eureka":  # the listing; an audit lists and polls, and has the watch poll
            return 60 / EurekaConfig().full_interval + 3 * audits
        case "etcd":  # pages
            return services * instances / PAGE * audits
        case _:  # each service, each job, each node, and four lists
            return (2 * services + NODES + 4) * audits
