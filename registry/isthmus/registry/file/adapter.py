"""The adapter: scan, yield what differs, wait until something happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.file.scan import SETTLE, Listing, list_files, scan
from isthmus.registry.file.unite import United, unite
from isthmus.registry.file.watch import Watched, watched, watching
from isthmus.registry.model import Origin, Service, ServiceKey, Snapshot

T = TypeVar("T")

TICK = 15.0
"""Seconds after which everything is looked at again, event or not: file systems on the network report none."""


class FileConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the services are written: a directory, of which `*.yaml`, `*.yml` and `*.json` are read, or one file."""

    path: str


class FileAdapter:
    """Services from files; see `isthmus.registry.written` for what is in them.

    Remembers what each file said last, also from one call of `snapshots` to the next: a file that breaks changes nothing.
    """

    def __init__(self, origin: Origin, config: FileConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._path = Path(config.path)
        self._stats = stats
        self._listing = Listing()

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """What all the files say, now and whenever it differs.

        Raises:
            AdapterError: the directory or file is not there, cannot be read or cannot be watched.

        """
        shown: Snapshot | None = None
        try:
            while True:
                what = await self._look(self._watched)
                async with watching(what) as watch:
                    while True:
                        snapshot = await self._snapshot(shown)
                        if snapshot is not shown:
                            shown = snapshot
                            yield snapshot
                        if await self._look(self._watched) != what:
                            break
                        changed = await watch.changed(TICK if self._listing.settled else SETTLE)
                        if changed:
                            self._stats.wake_up()
                        if changed & what.paths:
                            break  # a directory or link was replaced, and its watch went with it
        except OSError as e:
            self._stats.failed()
            raise AdapterError(f"{self.origin.name}: {self._path}: {e.strerror or e}") from None

    def _watched(self) -> Watched:
        return watched(self._path, list_files(self._path))

    async def _snapshot(self, shown: Snapshot | None) -> Snapshot:
        """A snapshot of the files as they are; the one shown last if it says the same."""
        listing, united = await self._look(self._read)
        self._listing = listing
        self._stats.read()
        self._stats.alive()
        changed = None if shown is None else _differing(shown.services, united.services)
        if shown is not None and not changed and united.quarantined == shown.quarantined:
            return shown
        # Not a number: a content hash has no order that a guard could compare.
        cursor = f"hash {listing.digest}"
        return Snapshot(self.origin, united.services, cursor, changed, united.quarantined)

    def _read(self) -> tuple[Listing, United]:
        listing = scan(self._path, self._listing, self.origin.name, time.time())
        documents = {name: f.document for name, f in listing.files.items() if f.document is not None}
        return listing, unite(documents, self.origin.name)

    async def _look(self, look: Callable[[], T]) -> T:
        """The result of `look`, at the second attempt if what was there is away: links are replaced in two steps."""
        try:
            return await asyncio.to_thread(look)
        except FileNotFoundError:
            if not self._listing.files:
                raise
            await asyncio.sleep(SETTLE)
            return await asyncio.to_thread(look)


def _differing(before: Mapping[ServiceKey, Service], after: Mapping[ServiceKey, Service]) -> frozenset[ServiceKey]:
    """Keys added, removed or altered; files that did not change share their services, which makes this quick."""
    gone = before.keys() - after.keys()
    return frozenset(gone | {k for k, s in after.items() if (b := before.get(k)) is not s and b != s})
