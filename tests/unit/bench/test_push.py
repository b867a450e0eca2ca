"""How the push benchmark makes rows of what it has measured."""

from __future__ import annotations

from bench.push.catalog import Population
from bench.push.matrix import Cell
from bench.push.run import ratios, to_rows


def mk_cell(cpu_us: list[float], last_ms: list[float]) -> Cell:
    return Cell(500, cpu_us, last_ms, 1_000.0)


def test_a_ratio_is_of_medians_and_knows_its_target() -> None:
    isthmus, fast, slow = mk_cell([90, 100, 500], [1]), mk_cell([50], [1]), mk_cell([400], [1])
    cells = {"isthmus": isthmus, "linear": fast, "snapshot": slow}
    rows = {row.name: row for row in ratios({("eds1000", 500): cells, ("cds1000", 500): cells | {"linear": slow}})}
    assert {name: (row.value, row.ok) for name, row in rows.items()} == {
        "push.eds1000_cpu_over_linear": (2, False),
        "push.eds1000_cpu_over_snapshot": (0.25, True),
        "push.cds1000_cpu_over_linear": (0.25, True),
    }


def test_a_cell_is_five_rows() -> None:
    """Pushes per second are those of all proxies, while one change follows the other."""
    rows = {row.name: row.value for row in to_rows("plain", "eds10", 500, mk_cell([80], [10, 20, 30]))}
    assert rows == {
        "push.plain.eds10.n500.cpu_us": 80,
        "push.plain.eds10.n500.p50_ms": 20,
        "push.plain.eds10.n500.p99_ms": 30,
        "push.plain.eds10.n500.per_s": 25_000,
        "push.plain.eds10.n500.bytes": 1_000,
    }


def test_every_instance_and_each_that_takes_its_place_has_a_key_of_its_own() -> None:
    population = Population(300, 10)
    keys = [population.pair(service, instance)[0] for service in range(300) for instance in range(20)]
    assert len(set(keys)) == 300 * 20
    assert {key for key, _ in population.pairs()} < set(keys)
