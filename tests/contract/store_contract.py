"""What every store keeps (`isthmus.registry.kv.edge`), as one suite. A store joins with a StoreWorld and a subclass."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping

import pytest

from isthmus.registry.kv.edge import MAX_VALUE, Store, StoreError, View
from tests.wait import eventually


class StoreWorld(abc.ABC):
    """A real store, empty at first, and what can happen to it."""

    notices_within: float = 20
    """Seconds after which a watch has surely noticed that the store cannot be read."""

    @abc.abstractmethod
    async def open(self) -> Store:
        """Another way to the same keys, as another process has it. The world closes it."""

    @abc.abstractmethod
    async def break_(self) -> None:
        """Make the store unreadable, without changing what it holds."""

    @abc.abstractmethod
    async def heal(self) -> None:
        """Undo `break_`."""


class Watching:
    """All that a watch has brought, and the error that ended it."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self.views: list[View] = []
        self.error: StoreError | None = None

    async def run(self) -> None:
        try:
            async for view in self._store.watch(self._folder):
                self.views.append(view)
        except StoreError as e:
            self.error = e

    @property
    def latest(self) -> Mapping[str, bytes]:
        assert self.views, f"nothing yet (error: {self.error})"
        return {name: entry.value for name, entry in self.views[-1].entries.items()}


@contextlib.asynccontextmanager
async def watching(store: Store, folder: str) -> AsyncGenerator[Watching]:
    seen = Watching(store, folder)
    task = asyncio.create_task(seen.run())
    try:
        await eventually(lambda: seen.views or seen.error, "the watch has begun")
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class StoreContract:
    """The suite. Subclasses give the fixture `world`."""

    @pytest.fixture
    def world(self) -> StoreWorld:
        raise NotImplementedError

    async def test_what_is_written_is_read_by_whoever_else(self, world: StoreWorld) -> None:
        one, other = await world.open(), await world.open()

        version = await one.put("config.json", b"first\n\0\xff", "")
        found = await other.get("config.json")

        assert found is not None
        assert (found.value, found.version) == (b"first\n\0\xff", version)
        assert await other.get("other.json") is None

    async def test_a_key_is_written_only_as_it_was_expected(self, world: StoreWorld) -> None:
        """None is made twice, and none is overwritten that somebody has changed or deleted meanwhile."""
        store = await world.open()
        first = await store.put("a", b"1", "")
        assert first
        assert await store.put("a", b"2", "") is None
        second = await store.put("a", b"2", first)
        assert second
        assert await store.put("a", b"3", first) is None
        assert await store.delete("a", first) is False
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"2"
        assert await store.delete("a", second)
        assert await store.get("a") is None
        assert await store.delete("a", second) is False
        assert await store.put("a", b"4", second) is None

    async def test_an_empty_value_is_a_value(self, world: StoreWorld) -> None:
        store = await world.open()
        version = await store.put("empty", b"", "")
        assert version
        found = await store.get("empty")
        assert found is not None
        assert found.value == b""
        assert await store.put("empty", b"more", version)

    async def test_of_many_who_change_at_once_one_at_a_time_succeeds(self, world: StoreWorld) -> None:
        """A counter that eight raise from four places, reading again when they come too late, misses none."""
        stores = [await world.open() for _ in range(4)]

        async def add(store: Store) -> None:
            for _ in range(5):
                while True:
                    before = await store.get("counter")
                    value = int(before.value) + 1 if before else 1
                    if await store.put("counter", str(value).encode(), before.version if before else ""):
                        break

        await asyncio.gather(*(add(store) for store in stores for _ in range(2)))

        counted = await stores[0].get("counter")
        assert counted is not None
        assert counted.value == b"40"

    async def test_a_folder_is_read_and_nothing_beside_it(self, world: StoreWorld) -> None:
        store = await world.open()
        assert (await store.read("things")).entries == {}
        for key in ("things/a", "things/b~1:2", "things-more/c", "thing", "other"):
            assert await store.put(key, key.encode(), "")

        entries = (await store.read("things")).entries

        assert {name: entry.value for name, entry in entries.items()} == {"a": b"things/a", "b~1:2": b"things/b~1:2"}
        changed = await store.put("things/a", b"again", entries["a"].version)
        assert (await store.read("things")).entries["a"].version == changed

    async def test_a_watch_brings_what_is_there_and_then_each_change(self, world: StoreWorld) -> None:
        store, other = await world.open(), await world.open()
        first = await store.put("things/a", b"1", "")
        assert first
        async with watching(store, "things") as seen:
            assert seen.latest == {"a": b"1"}
            await other.put("things/b", b"2", "")
            await eventually(lambda: seen.latest == {"a": b"1", "b": b"2"}, "a new key")
            second = await other.put("things/a", b"3", first)
            await eventually(lambda: seen.latest == {"a": b"3", "b": b"2"}, "another value")
            assert seen.views[-1].entries["a"].version == second
            await other.put("elsewhere", b"4", "")
            count = len(seen.views)
            assert second
            await other.delete("things/a", second)
            await eventually(lambda: seen.latest == {"b": b"2"}, "a key less")
            assert len(seen.views) == count + 1, "what is beside the folder wakes nobody"

    async def test_a_folder_that_is_not_there_yet_is_watched(self, world: StoreWorld) -> None:
        store = await world.open()
        async with watching(store, "things") as seen:
            assert seen.latest == {}
            await store.put("things/a", b"1", "")
            await eventually(lambda: seen.latest == {"a": b"1"}, "its first key")

    async def test_cancelling_a_watch_returns_at_once_and_leaves_no_task(self, world: StoreWorld) -> None:
        store = await world.open()
        await store.get("a")  # what is opened for all is open
        before = asyncio.all_tasks()
        seen = Watching(store, "things")
        task = asyncio.create_task(seen.run())
        await eventually(lambda: seen.views, "the watch has begun")
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.1
        assert asyncio.all_tasks() == before

    async def test_a_store_that_is_down_is_named_and_comes_back(self, world: StoreWorld) -> None:
        """Reads and changes fail with one sentence, a watch ends with one, and all of it goes on afterwards."""
        store = await world.open()
        version = await store.put("things/a", b"1", "")
        assert version
        async with watching(store, "things") as seen:
            await world.break_()
            try:
                for ask in (store.get("things/a"), store.put("things/a", b"2", version), store.read("things")):
                    with pytest.raises(StoreError) as error:
                        await ask
                    assert str(error.value).startswith("store ")
                    assert "\n" not in str(error.value)
                await eventually(lambda: seen.error, "the watch ends", timeout=world.notices_within)
            finally:
                await world.heal()
            assert len(seen.views) == 1
        found = await store.get("things/a")
        assert found is not None
        async with watching(store, "things") as again:
            assert set(again.latest) == {"a"}
            await store.put("things/b", b"2", "")
            await eventually(lambda: set(again.latest) == {"a", "b"}, "a change after it came back")

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "a\0", "ä", "a.new", "a" * 301]
    )
    async def test_what_is_no_key_is_refused(self, world: StoreWorld, key: str) -> None:
        """A name that comes from somebody else leads nowhere else."""
        store = await world.open()
        for ask in (store.get(key), store.put(key, b"1", ""), store.delete(key, "1"), store.read(key)):
            with pytest.raises(StoreError, match="expected letters, digits"):
                await ask

    async def test_what_one_store_would_not_take_no_store_does(self, world: StoreWorld) -> None:
        store = await world.open()
        assert await store.put("large", b"x" * MAX_VALUE, "")
        with pytest.raises(StoreError, match=f"larger: {MAX_VALUE + 1} bytes"):
            await store.put("larger", b"x" * (MAX_VALUE + 1), "")
        assert await store.get("larger") is None
