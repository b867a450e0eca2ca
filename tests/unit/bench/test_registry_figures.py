"""The rows of the registry benchmark."""

from __future__ import annotations

from bench.registry import figures
from bench.registry.figures import Idle, Listed, Series
from bench.registry.run import rare

IDLE = Idle(20, 6, 0.01)
SERIES = Series([*range(1, 101)], missing=0, cpu_ms=1.5, reads_per_minute=90, cpu=0.1)


def test_rows_have_the_names_that_were_agreed_on() -> None:
    """Whoever compares two versions looks them up by name."""
    rows = [
        *figures.of_listing("etcd", 10, Listed(1.0, 12.0, 3.0)),
        *figures.of_rest("etcd", IDLE, 2),
        *figures.of_changes("etcd", SERIES, ("weight",), 100, "others"),
        figures.of_cpu("etcd", SERIES, IDLE),
        figures.of_ratio("etcd", SERIES, SERIES),
        *figures.of_churn("etcd", SERIES, "how", None),
        figures.of_connections("etcd", 1, 1, "how"),
        figures.of_errors("etcd", 0),
    ]
    names = {row.name for row in rows}
    agreed = """change_to_catalog_p50_ms change_to_catalog_p99_ms cpu_per_change_ms cpu_per_change_ratio_5000_over_500
        memory_kb_per_instance reads_per_minute_idle reads_per_minute_churn seconds_to_synced connections_max"""
    assert {f"registry.{name}.etcd" for name in agreed.split()} <= names
    assert len(names) == len(rows)


def test_values_are_those_of_the_issue() -> None:
    """p99 by nearest rank, KiB by instance, reads with those that come less often, CPU as a ratio."""
    p50, p99 = figures.of_changes("consul", SERIES, ("health",), 98, "")
    assert (p50.value, p50.ok, p99.value, p99.ok) == (50, None, 99, False)
    _, memory, _ = figures.of_listing("consul", 10, Listed(1.0, 12.0, 3.0))
    assert (memory.value, memory.ok) == (1.2, True)
    assert figures.of_rest("consul", IDLE, 2)[0].value == 8
    small = Series([], 0, cpu_ms=0.1, reads_per_minute=0, cpu=0)
    ratio = figures.of_ratio("consul", SERIES, small)
    assert (ratio.value, ratio.ok) == (15, False)


def test_a_change_that_never_arrives_is_a_failure() -> None:
    lost = Series([1.0], missing=1, cpu_ms=1, reads_per_minute=1, cpu=0)
    assert [row.name for row in figures.of_churn("nomad", lost, "how", None) if row.ok is False] == [
        "registry.churn_missing.nomad"
    ]


def test_more_reads_than_configured_are_a_failure() -> None:
    assert figures.of_churn("consul", SERIES, "how", 89)[0].ok is False
    assert figures.of_churn("consul", SERIES, "how", 90)[0].ok is True


def test_more_connections_than_configured_are_a_failure() -> None:
    assert figures.of_connections("consul", 161, 160, "how").ok is False


def test_reads_that_come_less_often_than_one_can_wait_for_are_added() -> None:
    """An hourly audit reads each service once: 5,000 in 60 minutes. Consul's long wait adds one each ten minutes."""
    assert round(rare("consul", 5_000, 10)) == round(5_000 / 60 + 5_000 / 10)
    assert round(rare("etcd", 5_000, 10), 1) == round(100 / 60, 1)
    assert rare("eureka", 5_000, 10) == rare("eureka", 500, 10)
    assert rare("nomad", 5_000, 10) > 5_000 / 60
