from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.registry.atomic import write_atomically


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    (tmp_path / "file.new").mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomically(target, b"new")

    assert target.read_text() == "old"
