from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from isthmus.registry.lastgood import LastGood
from isthmus.registry.model import Origin
from tests.world import mk_instance, mk_service, mk_snapshot

ORIGIN = Origin("consul", "fake")
SNAPSHOT = mk_snapshot(
    mk_service("reviews", [mk_instance(1, labels={"version": "v1"}), mk_instance(2)]),
    mk_service("ratings"),
    cursor="42",
)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    LastGood(tmp_path, ORIGIN).save(SNAPSHOT)

    saved = LastGood(tmp_path, ORIGIN).load()

    assert saved is not None
    assert saved.snapshot.services == SNAPSHOT.services
    assert saved.snapshot.cursor == "42"
    assert saved.saved_at > 1_700_000_000


def test_nothing_saved_is_nothing(tmp_path: Path) -> None:
    assert LastGood(tmp_path, ORIGIN).load() is None
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_set_aside_with_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever happened to its bytes: it is not served, not fatal, and kept for whoever wants to look."""
    for old in tmp_path.iterdir():
        old.unlink()
    lastgood = LastGood(tmp_path, ORIGIN)
    lastgood.save(SNAPSHOT)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    start = data.draw(st.integers(0, len(good) - 1))
    inserted = data.draw(st.binary(max_size=4))
    bad = good[:start] + inserted + good[start + data.draw(st.integers(0, 4)) :]
    # The time is outside the checksum: a file that differs in it alone is as good.
    if bad.partition(b"\n")[2] == good.partition(b"\n")[2] and bad.split(b" ")[:2] == good.split(b" ")[:2]:
        return
    file.write_bytes(bad)

    with capture_logs() as logs:
        assert lastgood.load() is None

    assert [entry["event"] for entry in logs] == ["lastgood.set_aside"]
    assert not file.exists()
    assert Path(logs[0]["file"]).read_bytes() == bad
    lastgood.save(SNAPSHOT)
    assert lastgood.load() is not None


def test_another_kind_of_registry_under_the_same_name_starts_anew(tmp_path: Path) -> None:
    LastGood(tmp_path, ORIGIN).save(SNAPSHOT)

    assert LastGood(tmp_path, Origin("consul", "eureka")).load() is None


def test_a_crash_while_saving_leaves_the_old_state(tmp_path: Path) -> None:
    lastgood = LastGood(tmp_path, ORIGIN)
    lastgood.save(SNAPSHOT)
    (tmp_path / "consul.lastgood.new").write_bytes(b"half")

    assert lastgood.load() is not None


def test_an_unwritable_directory_is_an_error_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        LastGood(tmp_path / "missing", ORIGIN).save(SNAPSHOT)
