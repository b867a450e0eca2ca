"""Files as a store: a key is a path, its version the hash of its content.

A file is replaced in one step, and whoever compares and changes holds a lock on `.lock` meanwhile, so that several processes may
share a directory. Changes are noticed by inotify; on file systems that report none, after a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from isthmus.registry.adapter import ReadStats
from isthmus.registry.atomic import write_atomically
from isthmus.registry.file.watch import Watched, watching
from isthmus.registry.kv.edge import (
    MAX_VALUE,
    UNCOUNTED,
    Entry,
    StoreError,
    View,
    check_count,
    check_key,
    check_value,
)

TICK = 10.0
"""Seconds after which a folder is looked at again, event or not."""
LOCKED_WITHIN = 5.0
"""Seconds that a change waits for those of other processes."""

_LOCK = ".lock"

T = TypeVar("T")
_Seen = dict[str, tuple[tuple[int, ...], Entry]]


class DirectoryStore:
    """A directory, which is made if need be.

    Raises:
        StoreError: there is something else, or it cannot be made.

    """

    def __init__(self, directory: Path) -> None:
        self.where = f"directory {directory}"
        self._directory = directory
        self._turn = asyncio.Lock()
        """One change at a time, so that no thread of this process waits for another one's lock."""
        with self._named(""):
            directory.mkdir(parents=True, exist_ok=True)

    async def get(self, key: str) -> Entry | None:
        """What a key has."""
        check_key(key)
        return await self._in_thread(key, lambda: self._get(key))

    async def read(self, folder: str, stats: ReadStats = UNCOUNTED) -> View:
        """Everything below a folder."""
        check_key(folder)
        view, _ = await self._look(folder, {}, stats)
        return view

    async def watch(self, folder: str, stats: ReadStats = UNCOUNTED) -> AsyncGenerator[View, None]:
        """Everything below a folder, at first and whenever it differs."""
        check_key(folder)
        at = self._directory / folder
        seen: _Seen = {}
        shown: View | None = None
        while True:
            identity = await self._in_thread(folder, lambda: _made(at))
            async with watching(Watched(frozenset({at}), frozenset({at}))) as watch:
                # One that was put in its place has none of the watches.
                while await self._in_thread(folder, lambda: _made(at)) == identity:
                    view, seen = await self._look(folder, seen, stats)
                    stats.alive()
                    if shown is None or view.entries != shown.entries:
                        shown = view
                        yield view
                    try:
                        changed = await watch.changed(TICK)
                    except OSError as e:
                        raise self._error(folder, e) from None
                    if changed:
                        stats.wake_up()

    async def put(self, key: str, value: bytes, expected: str) -> str | None:
        """Write a key that has the expected version."""
        check_key(key)
        check_value(self.where, key, value)
        async with self._turn:
            return await self._in_thread(key, lambda: self._put(key, value, expected))

    async def delete(self, key: str, expected: str) -> bool:
        """Delete a key that has the expected version."""
        check_key(key)
        async with self._turn:
            return await self._in_thread(key, lambda: self._delete(key, expected))

    async def close(self) -> None:
        """Nothing is open."""

    async def _look(self, folder: str, seen: _Seen, stats: ReadStats) -> tuple[View, _Seen]:
        try:
            found = await self._in_thread(folder, lambda: self._list(folder, seen))
        except StoreError:
            stats.failed()
            raise
        stats.read()
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(found):
            digest.update(f"{name} {found[name][1].version}\n".encode())
        return View({name: entry for name, (_, entry) in found.items()}, f"hash {digest.hexdigest()}"), found

    def _list(self, folder: str, seen: _Seen) -> _Seen:
        at = self._directory / folder
        self._directory.stat()
        try:
            names = [
                name
                for name in (path.name for path in at.iterdir())
                if not name.startswith(".") and not name.endswith(".new")
            ]
        except FileNotFoundError:
            return {}
        check_count(self.where, folder, len(names))
        found: _Seen = {}
        for name in names:
            try:
                status = (at / name).stat()
                looks = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                if (before := seen.get(name)) is not None and before[0] == looks:
                    found[name] = before
                elif (entry := self._get(f"{folder}/{name}")) is not None:
                    found[name] = looks, entry
            except FileNotFoundError:
                continue  # deleted since it was listed
            except IsADirectoryError:
                continue
        return found

    def _get(self, key: str) -> Entry | None:
        try:
            with (self._directory / key).open("rb") as file:
                value = file.read(MAX_VALUE + 1)
        except FileNotFoundError:
            self._directory.stat()  # no directory is an error, and no file is none
            return None
        check_value(self.where, key, value)
        return Entry(value, _version(value))

    def _put(self, key: str, value: bytes, expected: str) -> str | None:
        with self._locked():
            before = self._get(key)
            if (before.version if before else "") != expected:
                return None
            path = self._directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, value)
        return _version(value)

    def _delete(self, key: str, expected: str) -> bool:
        with self._locked():
            before = self._get(key)
            if before is None or before.version != expected:
                return False
            (self._directory / key).unlink()
        return True

    @contextmanager
    def _locked(self) -> Generator[None]:
        deadline = time.monotonic() + LOCKED_WITHIN
        lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreError(
                            f"store {self.where}: another process has held {_LOCK} for {LOCKED_WITHIN:g} s"
                        ) from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(lock)

    async def _in_thread(self, key: str, step: Callable[[], T]) -> T:
        def named() -> T:
            with self._named(key):
                return step()

        return await asyncio.to_thread(named)

    @contextmanager
    def _named(self, key: str) -> Generator[None]:
        try:
            yield
        except OSError as e:
            raise self._error(key, e) from None

    def _error(self, key: str, error: OSError) -> StoreError:
        return StoreError(f"store {self.where}: {key}{': ' if key else ''}{error.strerror or error}")


def _made(directory: Path) -> tuple[int, int]:
    """Which directory it is, made if need be. Not its parents: where the store itself is gone, nothing is known."""
    directory.mkdir(exist_ok=True)
    status = directory.stat()
    return status.st_dev, status.st_ino


def _version(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()
