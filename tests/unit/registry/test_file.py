"""The file adapter against a real directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from isthmus.registry.adapter import AdapterError
from isthmus.registry.file import FileAdapter, FileConfig
from isthmus.registry.file.scan import MAX_BYTES
from isthmus.registry.model import Origin, ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus
from tests.wait import eventually

ORIGIN = Origin("files", "file")


def text(name: str, *addresses: str, port: int = 9080) -> str:
    instances = "".join(f"\n  - address: {a}" for a in addresses)
    return f"services:\n- name: {name}\n  ports: [{{name: http, number: {port}}}]\n  instances:{instances or ' []'}\n"


def replace(path: Path, content: str) -> None:
    """Write beside it and rename over it, as a careful writer does."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(content)
    temporary.rename(path)


class Reading:
    """An adapter being iterated; collects what it yields."""

    def __init__(self, *paths: Path) -> None:
        self.stats = OriginStatus(ORIGIN)
        self.adapter = FileAdapter(ORIGIN, FileConfig(tuple(str(path) for path in paths)), self.stats)
        self.seen: list[Snapshot] = []
        self.error = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Iterate until the end of the block; begins when the first snapshot, or an error, has come."""
        task = asyncio.create_task(self._run())
        before = len(self.seen)
        try:
            await eventually(lambda: len(self.seen) > before or self.error, "a first snapshot or error", every=0.002)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async for snapshot in self.adapter.snapshots():
                self.seen.append(snapshot)
        except AdapterError as e:
            self.error = str(e)

    def addresses(self) -> dict[str, list[str]]:
        return {s.key.name: [i.address for i in s.instances] for s in self.seen[-1].services.values()}

    def quarantined(self) -> list[tuple[str, str]]:
        return [(q.where, q.reason) for q in self.seen[-1].quarantined]

    async def until(self, expected: dict[str, list[str]]) -> None:
        await eventually(lambda: self.addresses() == expected, f"{expected}, last {self.addresses()}", every=0.002)


async def test_what_changes_in_a_directory_is_yielded_and_named(tmp_path: Path) -> None:
    """A new file, a replaced one and a removed one each give a snapshot whose `changed` is exactly the service concerned."""
    replace(tmp_path / "reviews.yaml", text("reviews", "10.0.0.1"))
    reading = Reading(tmp_path)
    async with reading.running():
        assert reading.addresses() == {"reviews": ["10.0.0.1"]}
        replace(tmp_path / "ratings.json", '{"services": [{"name": "ratings", "ports": [{"name": "x", "number": 1}]}]}')
        await reading.until({"reviews": ["10.0.0.1"], "ratings": []})
        replace(tmp_path / "reviews.yaml", text("reviews", "10.0.0.1", "10.0.0.2"))
        await reading.until({"reviews": ["10.0.0.1", "10.0.0.2"], "ratings": []})
        (tmp_path / "ratings.json").unlink()
        await reading.until({"reviews": ["10.0.0.1", "10.0.0.2"]})
    ratings, reviews = ServiceKey("default", "ratings"), ServiceKey("default", "reviews")
    assert [s.changed for s in reading.seen] == [None, {ratings}, {reviews}, {ratings}]
    assert len({s.cursor for s in reading.seen}) == 4
    assert not any(s.cursor.isdecimal() for s in reading.seen)


async def test_a_replaced_file_is_noticed_within_tens_of_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "reviews.yaml"
    replace(path, text("reviews", "10.0.0.0"))
    reading = Reading(tmp_path)
    took: list[float] = []
    async with reading.running():
        for i in range(1, 12):
            replace(path, text("reviews", f"10.0.0.{i}"))
            began = time.monotonic()
            await reading.until({"reviews": [f"10.0.0.{i}"]})
            took.append(time.monotonic() - began)
    assert sorted(took)[5] < 0.1, took


async def test_equal_content_yields_nothing(tmp_path: Path) -> None:
    """Touching, rewriting the same text or adding a comment changes no service, and nobody is told."""
    path = tmp_path / "reviews.yaml"
    replace(path, text("reviews", "10.0.0.1"))
    reading = Reading(tmp_path)
    async with reading.running():
        reads = reading.stats.reads
        replace(path, text("reviews", "10.0.0.1") + "# a comment\n")
        await eventually(lambda: reading.stats.reads > reads, "the file is read again")
        replace(tmp_path / "last.yaml", text("last"))
        await reading.until({"reviews": ["10.0.0.1"], "last": []})
    assert len(reading.seen) == 2


async def test_a_file_that_is_being_written_in_place_removes_nothing(tmp_path: Path) -> None:
    """Each stage of the write is an empty, broken or valid but shorter file; none of them is believed."""
    path = tmp_path / "all.yaml"
    path.write_text(text("reviews", "10.0.0.1", "10.0.0.2"))
    reading = Reading(tmp_path)
    async with reading.running():
        with path.open("w") as file:
            for line in text("reviews", "10.0.0.1", "10.0.0.2", "10.0.0.3").splitlines(keepends=True):
                wake_ups = reading.stats.wake_ups
                file.write(line)
                file.flush()
                await eventually(lambda before=wake_ups: reading.stats.wake_ups > before, "noticed", every=0.001)  # type: ignore[misc]
        await reading.until({"reviews": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]})
    instances = [sum(len(s.instances) for s in snapshot.services.values()) for snapshot in reading.seen]
    assert instances == [2, 3]
    assert all(s.quarantined == () for s in reading.seen)


async def test_a_broken_file_is_quarantined_with_its_line_and_its_services_stay(tmp_path: Path) -> None:
    replace(tmp_path / "a.yaml", text("a", "10.0.0.1"))
    replace(tmp_path / "b.yaml", text("b", "10.0.0.2"))
    reading = Reading(tmp_path)
    async with reading.running():
        replace(tmp_path / "b.yaml", "services:\n- name: b\n  ports: [")
        await eventually(reading.quarantined, "the broken file is quarantined")
        ((where, reason),) = reading.quarantined()
        assert where == "b.yaml:3"
        assert reason.startswith("not YAML: ")
        assert reading.addresses() == {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}
        assert reading.seen[-1].changed == frozenset()
        replace(tmp_path / "a.yaml", text("a", "10.0.0.9"))
        await reading.until({"a": ["10.0.0.9"], "b": ["10.0.0.2"]})
        replace(tmp_path / "b.yaml", text("b", "10.0.0.3"))
        await reading.until({"a": ["10.0.0.9"], "b": ["10.0.0.3"]})
        assert reading.quarantined() == []


async def test_a_wrong_service_stays_as_it_was_while_its_neighbours_in_the_file_change(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    good = text("a", "10.0.0.1") + text("b", "10.0.0.2").removeprefix("services:\n")
    replace(path, good)
    reading = Reading(tmp_path)
    async with reading.running():
        replace(path, good.replace("10.0.0.1", "10.0.0.9").replace("10.0.0.2", "10.0.0.300"))
        await reading.until({"a": ["10.0.0.9"], "b": ["10.0.0.2"]})
        ((where, reason),) = reading.quarantined()
        assert where == "all.yaml:9"
        assert "10.0.0.300" in reason
        replace(path, good.replace("name: b", "nome: b"))
        await eventually(lambda: "nome" in str(reading.quarantined()), "the service without a name is quarantined")
        assert reading.addresses()["b"] == ["10.0.0.2"]


async def test_a_broken_file_keeps_its_services_when_the_listing_begins_anew(tmp_path: Path) -> None:
    replace(tmp_path / "a.yaml", text("a", "10.0.0.1"))
    reading = Reading(tmp_path)
    async with reading.running():
        pass
    replace(tmp_path / "a.yaml", "services: [")
    async with reading.running():
        assert reading.addresses() == {"a": ["10.0.0.1"]}
        assert len(reading.quarantined()) == 1


async def test_a_service_may_stand_in_several_files(tmp_path: Path) -> None:
    """Instances are united; a later file that disagrees about the ports, or claims an id again, is quarantined."""
    replace(tmp_path / "1.yaml", text("a", "10.0.0.1"))
    replace(tmp_path / "2.yaml", text("a", "10.0.0.2"))
    replace(tmp_path / "3.yaml", text("a", "10.0.0.3", port=80))
    replace(tmp_path / "4.yaml", text("a", "10.0.0.1"))
    reading = Reading(tmp_path)
    async with reading.running():
        assert reading.addresses() == {"a": ["10.0.0.1", "10.0.0.2"]}
        assert reading.quarantined() == [
            ("3.yaml:2", "service a.default: its ports differ from 1.yaml:2, which says http 9080 http"),
            ("4.yaml:2", "service a.default: the instance id 10.0.0.1:9080 is taken already"),
        ]
        (tmp_path / "1.yaml").unlink()
        await reading.until({"a": ["10.0.0.1", "10.0.0.2"]})
        await eventually(lambda: "differ from 2.yaml:2" in str(reading.quarantined()), "2.yaml is the first now")


async def test_one_file_can_be_watched_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "services.conf"
    path.write_text(text("a", "10.0.0.1"))
    (tmp_path / "other.yaml").write_text(text("other"))
    reading = Reading(path)
    async with reading.running():
        for i in (2, 3):
            replace(path, text("a", f"10.0.0.{i}"))
            await reading.until({"a": [f"10.0.0.{i}"]})


async def test_a_version_published_by_swapping_a_link_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes does it inside a mounted directory: the files are links through `..data`, which is renamed over."""
    root = tmp_path / "mounted"
    for version in ("1", "2", "3"):
        (root / f"..{version}").mkdir(parents=True)
        (root / f"..{version}" / "a.yaml").write_text(text("a", f"10.0.0.{version}"))
    (root / "..data").symlink_to("..1")
    (root / "a.yaml").symlink_to("..data/a.yaml")
    reading = Reading(root)
    async with reading.running():
        for version in ("2", "3"):
            (root / "..new").symlink_to(f"..{version}")
            (root / "..new").rename(root / "..data")
            await reading.until({"a": [f"10.0.0.{version}"]})


async def test_a_release_switched_by_a_link_above_the_directory_is_noticed(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        (tmp_path / version / "services").mkdir(parents=True)
        (tmp_path / version / "services" / "a.yaml").write_text(text("a", f"10.0.0.{version}"))
    current = tmp_path / "current"
    current.symlink_to("1")
    reading = Reading(current / "services")
    async with reading.running():
        for version in ("2", "3"):
            current.unlink()  # ln -sfn does it in these two steps
            current.symlink_to(version)
            await reading.until({"a": [f"10.0.0.{version}"]})
        replace(tmp_path / "3" / "services" / "a.yaml", text("a", "10.0.0.4"))
        await reading.until({"a": ["10.0.0.4"]})
    assert reading.error == ""


async def test_an_editor_that_moves_the_old_file_away_first_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text("a", "10.0.0.1"))
    reading = Reading(tmp_path)
    async with reading.running():
        wake_ups = reading.stats.wake_ups
        path.rename(tmp_path / "a.yaml~")
        await eventually(lambda: reading.stats.wake_ups > wake_ups, "noticed", every=0.001)
        path.write_text(text("a", "10.0.0.2"))
        (tmp_path / "a.yaml~").unlink()
        await reading.until({"a": ["10.0.0.2"]})
    assert [len(s.services) for s in reading.seen] == [1, 1]


async def test_temporary_files_of_editors_are_not_services(tmp_path: Path) -> None:
    for name in (".a.yaml.swp", "a.yaml~", "#a.yaml#", ".#a.yaml", "4913", "a.yaml.bak", ".hidden.yaml"):
        (tmp_path / name).write_text(text("a"))
    (tmp_path / "folder.yaml").mkdir()
    reading = Reading(tmp_path)
    async with reading.running():
        assert reading.addresses() == {}
        assert reading.quarantined() == []


async def test_what_cannot_be_read_is_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text("a"))
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe.yaml")
    reading = Reading(tmp_path)
    async with reading.running():
        assert reading.addresses() == {"a": []}
        assert reading.quarantined() == [
            ("dangling.yaml:1", "cannot be read: No such file or directory"),
            ("large.yaml:1", "cannot be read: larger than 16 MiB"),
            ("pipe.yaml:1", "cannot be read: not a regular file"),
        ]


async def test_a_missing_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "nowhere")
    async with reading.running():
        assert reading.error == f"files: {tmp_path}/nowhere: No such file or directory"
    assert reading.seen == []
    assert reading.stats.errors == 1


async def test_a_directory_that_vanishes_is_an_error_and_its_return_is_read(tmp_path: Path) -> None:
    root = tmp_path / "services"
    root.mkdir()
    (root / "a.yaml").write_text(text("a", "10.0.0.1"))
    reading = Reading(root)
    async with reading.running():
        shutil.rmtree(root)
        # Seen between the files' removal and the directory's, it is an empty directory, which is an answer.
        await eventually(lambda: reading.error, "the missing directory is reported")
    assert "No such file or directory" in reading.error
    root.mkdir()
    (root / "a.yaml").write_text(text("a", "10.0.0.2"))
    async with reading.running():
        await reading.until({"a": ["10.0.0.2"]})


async def test_a_file_that_went_meanwhile_is_missing_from_the_first_listing(tmp_path: Path) -> None:
    """The guard compares that one with what there was; a later one it believes."""
    folder = tmp_path / "services"
    folder.mkdir()
    replace(folder / "a.yaml", text("a", "10.0.0.1"))
    os.utime(folder / "a.yaml", (1, 1))  # it rests
    reading = Reading(folder)
    async with reading.running():
        folder.rename(tmp_path / "away")
        await eventually(lambda: reading.error, "it is missed")
    folder.mkdir()
    replace(folder / "b.yaml", text("b", "10.0.0.2"))
    reading.error = ""
    before = len(reading.seen)

    async with reading.running():
        assert [k.name for k in reading.seen[before].services] == ["b"]


async def test_a_directory_swapped_for_an_empty_one_is_not_believed(tmp_path: Path) -> None:
    """The mount point that is left when a volume is unmounted says nothing about the services."""
    root = tmp_path / "services"
    root.mkdir()
    (root / "a.yaml").write_text(text("a", "10.0.0.1"))
    reading = Reading(root)
    async with reading.running():
        (tmp_path / "empty").mkdir()
        root.rename(tmp_path / "away")
        (tmp_path / "empty").rename(root)
        await eventually(lambda: reading.error, "the empty directory is reported")
        assert "has become another directory, without files" in reading.error
    assert [len(s.services) for s in reading.seen] == [1]


async def test_a_directory_made_anew_within_a_moment_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "services"
    root.mkdir()
    (root / "a.yaml").write_text(text("a", "10.0.0.1"))
    reading = Reading(root)
    async with reading.running():
        for i in (2, 3):
            fresh = tmp_path / "fresh"
            fresh.mkdir()
            (fresh / "a.yaml").write_text(text("a", f"10.0.0.{i}"))
            root.rename(tmp_path / f"old{i}")
            fresh.rename(root)
            await reading.until({"a": [f"10.0.0.{i}"]})
    assert reading.error == ""


async def test_cancelling_returns_at_once(tmp_path: Path) -> None:
    reading = Reading(tmp_path)
    async with reading.running():
        began = time.monotonic()
    assert time.monotonic() - began < 0.1
