"""The number by which a later start is told from an earlier one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.agent.registration.epoch import FILE, next_epoch


def test_it_grows_with_each_start_also_within_a_millisecond(tmp_path: Path) -> None:
    epochs = [next_epoch(tmp_path) for _ in range(50)]
    assert epochs == sorted(set(epochs))


def test_it_grows_when_the_clock_was_set_back(tmp_path: Path) -> None:
    future = int(time.time() * 1000) + 10**9
    (tmp_path / FILE).write_text(str(future))
    assert next_epoch(tmp_path) == future + 1


@pytest.mark.parametrize("spoiled", [b"", b"\xff\xfe", b"-3", b"9" * 30])
def test_it_grows_when_what_was_kept_is_lost(tmp_path: Path, spoiled: bytes) -> None:
    before = next_epoch(tmp_path)
    (tmp_path / FILE).write_bytes(spoiled)
    time.sleep(0.002)
    assert next_epoch(tmp_path) > before


def test_that_it_cannot_be_kept_is_logged(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        assert next_epoch(tmp_path / "file" / "state") > 0
    assert [entry["event"] for entry in logs] == ["agent.epoch_not_kept"]
    assert os.fspath(tmp_path) in logs[0]["file"]
