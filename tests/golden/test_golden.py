"""Meshes in, Envoy's configuration out; `--update-golden` rewrites what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.xds.translate import translate
from isthmus.xds.translate.grpc_view import to_grpc_view
from tests.golden.meshes import CASES, GRPC_CASES, MESH_FILE, OUTBOUND_CASES, load, to_files, to_outbound_files

NAMES = sorted(path.name for path in CASES.iterdir())
GRPC_NAMES = sorted(path.name for path in GRPC_CASES.iterdir())
OUTBOUND_NAMES = sorted(path.name for path in OUTBOUND_CASES.iterdir())


@pytest.mark.parametrize("case", NAMES)
def test_a_mesh_becomes_what_was_reviewed(case: str, update_golden: bool) -> None:
    """Every byte of configuration that differs from the reviewed one shows up here, and so does a file nobody writes."""
    check(CASES / case, to_files(translate(load(case))), update_golden)


@pytest.mark.parametrize("case", GRPC_NAMES)
def test_grpc_is_told_what_was_reviewed(case: str, update_golden: bool) -> None:
    check(GRPC_CASES / case, to_files(to_grpc_view(translate(load(case, GRPC_CASES)))), update_golden)


@pytest.mark.parametrize("case", OUTBOUND_NAMES)
def test_each_group_is_told_what_was_reviewed(case: str, update_golden: bool) -> None:
    check(OUTBOUND_CASES / case, to_outbound_files(load(case, OUTBOUND_CASES)), update_golden)


def check(folder: Path, made: dict[str, str], update_golden: bool) -> None:
    if update_golden:
        for name, text in made.items():
            (folder / name).write_text(text)
    expected = {path.name: path.read_text() for path in folder.iterdir() if path.name != MESH_FILE}
    unused = sorted(expected.keys() - made.keys())
    assert not unused, f"{folder}: nothing writes {unused}; delete them"
    assert made == expected
