"""Meshes in, Envoy's configuration out; `--update-golden` rewrites what is expected."""

from __future__ import annotations

import pytest

from isthmus.xds.translate import translate
from tests.golden.meshes import CASES, MESH_FILE, load, to_files

NAMES = sorted(path.name for path in CASES.iterdir())


@pytest.mark.parametrize("case", NAMES)
def test_a_mesh_becomes_what_was_reviewed(case: str, update_golden: bool) -> None:
    """Every byte of configuration that differs from the reviewed one shows up here, and so does a file nobody writes."""
    folder = CASES / case
    made = to_files(translate(load(case)))
    if update_golden:
        for name, text in made.items():
            (folder / name).write_text(text)
    expected = {path.name: path.read_text() for path in folder.iterdir() if path.name != MESH_FILE}
    unused = sorted(expected.keys() - made.keys())
    assert not unused, f"tests/golden/cases/{case}: nothing writes {unused}; delete them"
    assert made == expected
