"""The file adapter with patterns: what begins to match, what ceases to, and what is half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.registry.test_file import Reading, replace, text
from tests.wait import eventually


def put(path: Path, name: str, *addresses: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text(name, *addresses))


async def test_files_that_begin_and_cease_to_match(tmp_path: Path) -> None:
    """Also in directories that were not there before, or that are taken away."""
    put(tmp_path / "red" / "services.yaml", "reviews", "10.0.0.1")
    reading = Reading(tmp_path / "*" / "services.yaml")
    async with reading.running():
        assert reading.addresses() == {"reviews": ["10.0.0.1"]}
        put(tmp_path / "blue" / "services.yaml", "ratings", "10.0.0.2")
        await reading.until({"reviews": ["10.0.0.1"], "ratings": ["10.0.0.2"]})
        replace(tmp_path / "blue" / "services.yaml", text("ratings", "10.0.0.3"))
        await reading.until({"reviews": ["10.0.0.1"], "ratings": ["10.0.0.3"]})
        put(tmp_path / "blue" / "other.yaml", "details", "10.0.0.9")
        (tmp_path / "red" / "services.yaml").unlink()
        await reading.until({"ratings": ["10.0.0.3"]})
        (tmp_path / "blue").rename(tmp_path / "green")
        replace(tmp_path / "green" / "services.yaml", text("ratings", "10.0.0.4"))
        await reading.until({"ratings": ["10.0.0.4"]})


async def test_a_directory_that_is_made_anew_is_followed(tmp_path: Path) -> None:
    """Its watch went with the old one."""
    put(tmp_path / "red" / "services.yaml", "reviews", "10.0.0.1")
    reading = Reading(tmp_path / "*" / "*.yaml")
    async with reading.running():
        (tmp_path / "red").rename(tmp_path / ".old")
        put(tmp_path / "red" / "services.yaml", "reviews", "10.0.0.2")
        await reading.until({"reviews": ["10.0.0.2"]})
        replace(tmp_path / "red" / "services.yaml", text("reviews", "10.0.0.3"))
        await reading.until({"reviews": ["10.0.0.3"]})


async def test_matches_at_any_depth(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", "top", "10.0.0.1")
    reading = Reading(tmp_path / "**" / "*.yaml")
    async with reading.running():
        put(tmp_path / "eu" / "north" / "b.yaml", "deep", "10.0.0.2")
        await reading.until({"top": ["10.0.0.1"], "deep": ["10.0.0.2"]})


async def test_several_patterns_are_one_registry(tmp_path: Path) -> None:
    put(tmp_path / "one" / "a.yaml", "reviews", "10.0.0.1")
    put(tmp_path / "two" / "b.json", "ratings", "10.0.0.2")
    put(tmp_path / "two" / "c.yaml", "details", "10.0.0.3")
    reading = Reading(tmp_path / "one", tmp_path / "two" / "*.json", tmp_path / "two" / "c.yaml")
    async with reading.running():
        assert reading.addresses() == {"reviews": ["10.0.0.1"], "ratings": ["10.0.0.2"], "details": ["10.0.0.3"]}
        (tmp_path / "two" / "b.json").unlink()
        await reading.until({"reviews": ["10.0.0.1"], "details": ["10.0.0.3"]})


async def test_a_broken_file_keeps_what_it_said_and_is_named_by_its_path(tmp_path: Path) -> None:
    put(tmp_path / "red" / "services.yaml", "reviews", "10.0.0.1")
    put(tmp_path / "blue" / "services.yaml", "ratings", "10.0.0.2")
    reading = Reading(tmp_path / "*" / "services.yaml")
    async with reading.running():
        replace(tmp_path / "red" / "services.yaml", "services: [")
        await eventually(reading.quarantined, "it is said", every=0.002)
        assert reading.addresses() == {"reviews": ["10.0.0.1"], "ratings": ["10.0.0.2"]}
        assert [where for where, _ in reading.quarantined()] == ["red/services.yaml:1"]


async def test_a_pattern_whose_beginning_vanishes_removes_nothing(tmp_path: Path) -> None:
    """Nor does one of several: what could not be looked for is not gone."""
    put(tmp_path / "one" / "a.yaml", "reviews", "10.0.0.1")
    put(tmp_path / "two" / "b.yaml", "ratings", "10.0.0.2")
    reading = Reading(tmp_path / "one" / "*.yaml", tmp_path / "two" / "*.yaml")
    async with reading.running():
        (tmp_path / "two").rename(tmp_path / "away")
        await eventually(lambda: reading.error, "it is said", every=0.002)
    assert reading.error == f"files: {tmp_path}/two: No such file or directory"
    assert reading.addresses() == {"reviews": ["10.0.0.1"], "ratings": ["10.0.0.2"]}


@pytest.mark.parametrize("pattern", ["*.yaml", "**/*.yaml"])
async def test_a_beginning_swapped_for_an_empty_directory_is_not_believed(tmp_path: Path, pattern: str) -> None:
    """It looks like a volume that is not mounted; the other place goes on to have its files."""
    put(tmp_path / "one" / "a.yaml", "reviews", "10.0.0.1")
    put(tmp_path / "two" / "b.yaml", "ratings", "10.0.0.2")
    (tmp_path / "empty").mkdir()
    reading = Reading(tmp_path / "one", tmp_path / "two" / pattern)
    async with reading.running():
        (tmp_path / "two").rename(tmp_path / "away")
        (tmp_path / "empty").rename(tmp_path / "two")
        await eventually(lambda: reading.error, "it is said", every=0.002)
    assert f"{tmp_path}/two" in reading.error
    assert reading.addresses() == {"reviews": ["10.0.0.1"], "ratings": ["10.0.0.2"]}
