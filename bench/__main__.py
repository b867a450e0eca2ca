"""`python -m bench [NAME]` measures; `python -m bench --check [NAME]` says what falls short and fails if anything does."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence

import pytest
from rich.console import Console
from rich.table import Table

from bench import machine, rows, spine
from bench.agent import run as agent
from bench.push import run as push
from bench.registry import run as registry
from bench.rows import Row

BENCHES: dict[str, Callable[[], Coroutine[None, None, list[Row]]]] = {
    "agent": agent.run,
    "push": push.run,
    "registry": registry.run,
    "spine": spine.run,
}


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES), help="one benchmark; all by default")
    parser.add_argument("--check", action="store_true", help="print measured rows that miss their target, run nothing")
    arguments = parser.parse_args()
    names = [arguments.name] if arguments.name else sorted(BENCHES)
    return _check(names) if arguments.check else _measure(names)


def _measure(names: Iterable[str]) -> int:
    print(machine.describe())
    for name in names:
        try:
            found = asyncio.run(BENCHES[name]())
        except pytest.skip.Exception as e:  # the servers are those of the tests, and one is not installed
            print(e, file=sys.stderr)
            return 1
        path = rows.write(name, found)
        _print(found)
        print(f"written to {path}")
    return 0


def _check(names: Iterable[str]) -> int:
    short: list[Row] = []
    for name in names:
        try:
            short += [row for row in rows.read(name) if row.ok is False]
        except FileNotFoundError:
            print(f"{name} was not measured yet: make bench NAME={name}", file=sys.stderr)
            return 1
    if short:
        _print(short)
    return 1 if short else 0


def _print(found: Sequence[Row]) -> None:
    table = Table("name", "value", "unit", "target", "ok", "peer")
    for row in found:
        target = "" if row.target is None else f"<= {row.target:g}"
        ok = "" if row.ok is None else "yes" if row.ok else "NO"
        table.add_row(row.name, f"{row.value:,g}", row.unit, target, ok, row.peer)
    Console(width=None if sys.stdout.isatty() else 220).print(table)


if __name__ == "__main__":
    sys.exit(main())
