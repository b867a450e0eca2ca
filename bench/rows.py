"""What a benchmark finds: rows with a value and, where there is one, the target that the value has to keep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

RESULTS = Path(__file__).with_name("results")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure. Its name begins with the benchmark's, as in `spine.write_to_ack_p99_ms`.

    `peer` says what others need for the same, and whether that was measured here. `ok` is None where there is no target.
    """

    name: str
    value: float
    unit: str
    target: float | None
    peer: str
    ok: bool | None


def figure(name: str, value: float, unit: str, peer: str = "") -> Row:
    """Make a row that informs."""
    return Row(name, _rounded(value), unit, None, peer, None)


def at_most(name: str, value: float, unit: str, target: float, peer: str = "") -> Row:
    """Make a row whose value must not be above the target."""
    return Row(name, _rounded(value), unit, target, peer, value <= target)


def write(bench: str, rows: Sequence[Row]) -> Path:
    """Keep the rows of one benchmark, in place of those from the time before.

    Raises:
        ValueError: the name of a row does not begin with that of its benchmark.

    """
    strays = [row.name for row in rows if not row.name.startswith(f"{bench}.")]
    if strays:
        raise ValueError(f"rows of {bench} must be called {bench}.something: {', '.join(strays)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{bench}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    return path


def read(bench: str) -> list[Row]:
    """The rows of one benchmark.

    Raises:
        FileNotFoundError: it was not run yet.

    """
    return msgspec.json.decode((RESULTS / f"{bench}.json").read_bytes(), type=list[Row])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed: nearest rank, no interpolation."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def _rounded(value: float) -> float:
    return round(value, 3 if abs(value) < 10 else 1)
