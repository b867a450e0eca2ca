"""The tables of tests/model/README.md say what is there: each rule's tests name it, and each mutant is listed with its killer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.model.mutants import MUTANTS, ORDERS
from tests.model.test_mutants import killer

ROOT = Path(__file__).resolve().parents[2]
TABLES = (ROOT / "tests/model/README.md").read_text()
RULES = 52


def rows(heading: str) -> Iterator[tuple[str, ...]]:
    """The cells of a section's table, row by row."""
    section = TABLES.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        cells = tuple(c.strip() for c in line.strip("|").replace(r"\|", "\0").split("|"))
        if line.startswith("|") and not set(line) <= set("|- "):
            yield tuple(c.replace("\0", "|") for c in cells)


def shown_by(cell: str) -> list[str]:
    """The tests that a cell names: `path::name` in backquotes."""
    return re.findall(r"`([\w/.]+::[\w:]+)`", cell)


@cache
def docstrings(path: str) -> dict[str, str]:
    """By name, the docstrings of a file's tests and of the classes that are or hold tests."""
    found: dict[str, str] = {}
    for node in ast.parse((ROOT / "tests" / path).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[f"{node.name}::{inner.name}"] = ast.get_docstring(inner) or ""
    return found


def rules_in(docstring: str) -> set[int]:
    """The numbers after `Rule` and `rules`: `Rules 12, 35 and 36`."""
    lists = re.findall(r"\b[Rr]ules? (\d+(?:(?:, | and )\d+)*)", docstring)
    return {int(n) for numbers in lists for n in re.findall(r"\d+", numbers)}


def test_every_rule_is_in_the_table() -> None:
    assert [r[0] for r in rows("Rules")][1:] == [str(n) for n in range(1, RULES + 1)]


@pytest.mark.parametrize("row", list(rows("Rules"))[1:], ids=lambda r: f"rule {r[0]}")
def test_the_tests_of_a_rule_name_it(row: tuple[str, ...]) -> None:
    """One that is nobody's here has no tests and says why."""
    number, subject, shown = row
    assert subject
    named = shown_by(shown)
    assert named or re.match(r"not |the client's", shown), f"rule {number} has neither a test nor a reason"
    for test in named:
        path, _, name = test.partition("::")
        assert name in docstrings(path), f"{test} does not exist"
        assert int(number) in rules_in(docstrings(path)[name]), f"the docstring of {test} does not name rule {number}"


@pytest.mark.parametrize("row", list(rows("Bugs of others"))[1:], ids=lambda r: r[0])
def test_the_bugs_of_others_have_tests(row: tuple[str, ...]) -> None:
    for test in shown_by(row[2]):
        path, _, name = test.partition("::")
        assert name in docstrings(path), f"{test} does not exist"
    assert shown_by(row[2]) or row[2].startswith("not "), f"{row[0]} has neither a test nor a reason"


def test_every_mutant_is_in_the_table_with_what_kills_it() -> None:
    listed = {what: shown_by(by)[0] for what, by in list(rows("Mutants"))[1:]}
    assert listed == {name: killer(name) for name in (*MUTANTS, *ORDERS)}
