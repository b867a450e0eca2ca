"""README.md beside this file names the test of each fault."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_tests_that_are_named_exist() -> None:
    """`file.py::test_name`; a further `::test_name` is in the same file."""
    missing: list[str] = []
    named = 0
    for line in (HERE / "README.md").read_text().splitlines():
        file = Path()
        for path, name in re.findall(r"`([\w/.]*\.py)?::(test_\w+)`", line):
            if path:
                file = HERE.parents[1] / path if path.startswith("tests/") else HERE / path
            named += 1
            if not file.is_file() or f"def {name}(" not in file.read_text():
                missing.append(f"{path}::{name}")
    assert missing == []
    assert named > 60
