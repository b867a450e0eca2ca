"""The rows of this benchmark, made of what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.registry.population import Kind
from bench.rows import Row, at_most, figure, quantile

CPU, CPU_RATIO, MEMORY = 2.0, 10.0, 1.5
"""Targets: ms per change, times as much as with a tenth of the services, KiB per instance."""


class Listed(msgspec.Struct, frozen=True):
    """What the first listing took. `save_ms` is the CPU that it takes to save all of it as last known good state."""

    seconds: float
    grown_kb: float
    save_ms: float


class Idle(msgspec.Struct, frozen=True):
    """What happens while nothing does. `cpu` is a share of one CPU."""

    seconds: float
    reads_per_minute: float
    cpu: float


class Series(msgspec.Struct, frozen=True):
    """What changes took, in ms. `cpu_ms` is for each, without what time alone costs; `cpu` is the share of a CPU, in all."""

    latencies: Sequence[float]
    missing: int
    cpu_ms: float
    reads_per_minute: float
    cpu: float


def of_listing(label: str, instances: int, listed: Listed) -> list[Row]:
    """`label` is the last part of the rows' names: the platform, or more than that."""
    return [
        figure(
            f"registry.seconds_to_synced.{label}", listed.seconds, f"s until {instances:,} instances are in the catalog"
        ),
        at_most(
            f"registry.memory_kb_per_instance.{label}",
            listed.grown_kb / instances,
            "KiB, growth of RSS from before the listing until it rests, after gc.collect()",
            MEMORY,
        ),
        figure(
            f"registry.save_cpu_ms.{label}",
            listed.save_ms,
            "ms of CPU to save all of it: in a thread, at most each 5 s",
        ),
    ]


def of_rest(label: str, idle: Idle, rare: float) -> list[Row]:
    """`rare` is what is read less often than it was counted for, per minute."""
    return [
        figure(
            f"registry.reads_per_minute_idle.{label}",
            idle.reads_per_minute + rare,
            f"reads, counted for {idle.seconds:.0f} s, plus {rare:.1f} that come less often",
        ),
        figure(f"registry.cpu_percent_idle.{label}", idle.cpu * 100, "% of one CPU"),
    ]


def of_changes(label: str, series: Series, kinds: Sequence[Kind], latency: float, peer: str) -> list[Row]:
    """`latency` is the target for p99, in ms."""
    what = f"{' or '.join(kinds)}, {len(series.latencies)} changes"
    return [
        figure(f"registry.change_to_catalog_p50_ms.{label}", quantile(series.latencies, 0.5), f"ms, {what}", peer),
        at_most(
            f"registry.change_to_catalog_p99_ms.{label}", quantile(series.latencies, 0.99), f"ms, {what}", latency, peer
        ),
    ]


def of_cpu(label: str, series: Series, idle: Idle) -> Row:
    what = f"ms of CPU, of the same changes, without the {idle.cpu:.2%} of one that rest takes"
    return at_most(f"registry.cpu_per_change_ms.{label}", series.cpu_ms, what, CPU)


def of_ratio(label: str, large: Series, small: Series) -> Row:
    name = f"registry.cpu_per_change_ratio_5000_over_500.{label}"
    return at_most(name, large.cpu_ms / small.cpu_ms, f"times {small.cpu_ms:.2f} ms", CPU_RATIO)


def of_churn(label: str, series: Series, how: str, budget: float | None) -> list[Row]:
    """`how` says how many changes in how long, `budget` how many reads per minute are configured at the most."""
    name, reads = f"registry.reads_per_minute_churn.{label}", series.reads_per_minute
    p50, p99 = (quantile(series.latencies, share) for share in (0.5, 0.99))
    return [
        figure(name, reads, "reads", how) if budget is None else at_most(name, reads, "reads", budget, how),
        figure(f"registry.churn_change_to_catalog_p50_ms.{label}", p50, "ms", how),
        figure(f"registry.churn_change_to_catalog_p99_ms.{label}", p99, "ms", how),
        at_most(
            f"registry.churn_missing.{label}",
            series.missing,
            "changes that did not arrive within 20 s of the last",
            0,
            how,
        ),
        figure(f"registry.cpu_percent_churn.{label}", series.cpu * 100, "% of one CPU", how),
    ]


def of_errors(label: str, errors: int) -> Row:
    """A registry that could not be read for a while makes the other rows worthless."""
    return at_most(f"registry.read_errors.{label}", errors, "requests that failed, in all", 0)


def of_connections(label: str, most: int, allowed: int, how: str) -> Row:
    """`allowed` is the number that is configured, or that the adapter keeps to by itself."""
    return at_most(f"registry.connections_max.{label}", most, f"connections, {how}", allowed)
