"""The adapter: scan, yield what differs, wait until something happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TypeVar

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.file.find import find
from isthmus.registry.file.scan import SETTLE, Listing, scan
from isthmus.registry.file.unite import United, unite
from isthmus.registry.file.watch import Watched, watched_for, watching
from isthmus.registry.model import Origin, Service, ServiceKey, Snapshot

T = TypeVar("T")

TICK = 15.0
"""Seconds after which everything is looked at again, event or not: file systems on the network report none."""


class FileConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the services are written: one file, a directory, a pattern (`isthmus.registry.file.find`), or several of them."""

    path: str | tuple[str, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Each path and pattern."""
        return (self.path,) if isinstance(self.path, str) else self.path


class FileAdapter:
    """Services from files; see `isthmus.registry.written` for what is in them.

    Remembers what each file said last, also from one call of `snapshots` to the next: a file that breaks changes nothing.
    """

    def __init__(self, origin: Origin, config: FileConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._patterns = config.patterns
        self._stats = stats
        self._listing = Listing()

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """What all the files say, now and whenever it differs.

        Raises:
            AdapterError: the directory or file is not there, cannot be read or cannot be watched.

        """
        shown: Snapshot | None = None
        try:
            watched = await self._look(self._watched)
            while True:
                async with watching(watched) as watch:
                    while True:
                        listing, united, now_watched = await self._look(self._read if shown else self._read_anew)
                        self._listing = listing
                        self._stats.read()
                        self._stats.alive()
                        snapshot = self._snapshot(united, shown)
                        if snapshot is not None:
                            shown = snapshot
                            yield snapshot
                        if now_watched != watched:
                            break
                        changed = await watch.changed(TICK if listing.settled else SETTLE)
                        if changed:
                            self._stats.wake_up()
                        if changed & watched.paths:
                            now_watched = await self._look(self._watched)
                            break  # a directory or link was replaced, and its watch went with it
                watched = now_watched
        except OSError as e:
            self._stats.failed()
            raise self._error(e) from None

    async def listing(self) -> Snapshot:
        """What all the files say, looked at anew.

        Raises:
            AdapterError: the directory or file is not there or cannot be read.

        """
        try:
            listing, united, _ = await self._look(self._read)
        except OSError as e:
            self._stats.failed()
            raise self._error(e) from None
        self._stats.read()
        return Snapshot(self.origin, united.services, _cursor(listing), None, united.quarantined)

    def _snapshot(self, united: United, shown: Snapshot | None) -> Snapshot | None:
        """A snapshot of what the files say, or None when the one shown last says the same."""
        changed = None if shown is None else _differing(shown.services, united.services)
        if shown is not None and not changed and united.quarantined == shown.quarantined:
            return None
        return Snapshot(self.origin, united.services, _cursor(self._listing), changed, united.quarantined)

    def _error(self, error: OSError) -> AdapterError:
        where = error.filename or ", ".join(self._patterns)
        return AdapterError(f"{self.origin.name}: {where}: {error.strerror or error}")

    def _watched(self) -> Watched:
        return watched_for(find(self._patterns).places.values())

    def _read_anew(self) -> tuple[Listing, United, Watched]:
        # What is gone now went while nobody looked: the first snapshot has to be without it, for the guard to see.
        return self._read(anew=True)

    def _read(self, *, anew: bool = False) -> tuple[Listing, United, Watched]:
        listing = scan(self._patterns, self._listing, self.origin.name, time.time(), anew=anew)
        documents = {name: f.document for name, f in listing.files.items() if f.document is not None}
        return listing, unite(documents, self.origin.name), watched_for(listing.found.places.values())

    async def _look(self, look: Callable[[], T]) -> T:
        """The result of `look`, at the second attempt if what was there is away: links are replaced in two steps."""
        try:
            return await asyncio.to_thread(look)
        except FileNotFoundError:
            if not self._listing.files:
                raise
            await asyncio.sleep(SETTLE)
            return await asyncio.to_thread(look)


def _cursor(listing: Listing) -> str:
    """Not a number: a content hash has no order that a guard could compare."""
    return f"hash {listing.digest}"


def _differing(before: Mapping[ServiceKey, Service], after: Mapping[ServiceKey, Service]) -> frozenset[ServiceKey]:
    """Keys added, removed or altered; files that did not change share their services, which makes this quick."""
    gone = before.keys() - after.keys()
    return frozenset(gone | {k for k, s in after.items() if (b := before.get(k)) is not s and b != s})
