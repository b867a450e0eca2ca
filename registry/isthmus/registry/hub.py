"""All origins become one catalog at a time.

Between the stages there are cells that hold the latest value, never queues: an adapter that is quicker than translation
overwrites its snapshot, and the hints of what changed are united, so that skipping a state loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from isthmus.registry.adapter import Adapter
from isthmus.registry.debounce import Debounce
from isthmus.registry.guard import Hold
from isthmus.registry.lastgood import LastGood
from isthmus.registry.merge import MergeRules, MergeState, merge
from isthmus.registry.model import Catalog, Removed, ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.source import Source, SourceRules
from isthmus.registry.thread import in_thread, is_large

QUIET = 0.002
"""Seconds without a further snapshot before another catalog is made: what one registry answer brings in pieces stays together."""
MAXIMUM = 0.05
"""Seconds that a change waits at the most while others keep coming, and after which the next one does not wait at all."""


class Hub:
    """Watches origins and yields catalogs.

    Origins may be added, replaced and removed while it runs; the others do not notice. Their order of precedence is set by
    `prefer`, and is else the order in which they were added. `sync_timeout` is how long, in seconds, the first catalog waits for
    an origin that does not answer. What origins said last is kept in `directory`, if one is given.
    """

    def __init__(self, rules: SourceRules, sync_timeout: float, directory: Path | None = None) -> None:
        self._rules = rules
        self._sync_timeout = sync_timeout
        self._directory = directory
        self._sources: dict[str, Source] = {}
        self._order: list[str] = []
        self._wake = asyncio.Event()
        self._listed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._debounce = Debounce(QUIET, MAXIMUM)
        self._changed_at: float | None = None
        self._merge_rules = MergeRules()
        self._merged: MergeState | None = None
        self._deadline = time.monotonic() + sync_timeout

    def add(self, adapter: Adapter, status: OriginStatus) -> None:
        """Begin to watch an origin."""
        self._start(self._source(adapter, status))

    async def remove(self, name: str) -> None:
        """Stop watching an origin; what it alone knew leaves the catalog."""
        source = self._sources.pop(name)
        self._order.remove(name)
        await source.stop()
        self._event()

    async def replace(self, adapter: Adapter, status: OriginStatus) -> None:
        """Watch an origin with other settings; what it said last stays until all is listed anew."""
        before = self._sources[adapter.origin.name]
        await before.stop()
        after = self._source(adapter, status)
        after.inherit(before)
        self._start(after)

    def prefer(self, names: Sequence[str], rules: MergeRules) -> None:
        """Set the order of precedence, for when origins disagree, and how they share the traffic."""
        self._order = list(names)
        self._merge_rules = rules
        self._event()

    async def close(self) -> None:
        """Stop watching everything."""
        await asyncio.gather(*(source.stop() for source in self._sources.values()))

    @property
    def sources(self) -> Mapping[str, Source]:
        """Every origin, in order of precedence."""
        return {name: self._sources[name] for name in self._order}

    @property
    def statuses(self) -> Mapping[str, OriginStatus]:
        """How each origin is doing, in order of precedence."""
        return {name: source.status for name, source in self.sources.items()}

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Every instance that is served although its registry does not list it."""
        return tuple(hold for source in self._sources.values() for hold in source.holds)

    @property
    def removed(self) -> Mapping[ServiceKey, tuple[Removed, ...]]:
        """Instances that are left out of the catalog for being doubtful."""
        return self._merged.catalog.removed if self._merged else {}

    @property
    def unsynced(self) -> list[str]:
        """Origins that have not completed a listing yet."""
        return [name for name, source in self.sources.items() if not source.status.synced]

    @property
    def ready(self) -> bool:
        """Something is known of every origin, or each has had its time and something is known of one.

        Nothing at all is never ready: to show an empty world to proxies that come back would take from them all they have.
        """
        known = sum(source.shown is not None for source in self._sources.values())
        return known == len(self._sources) or (known > 0 and time.monotonic() >= self._deadline)

    async def wait_synced(self, names: Collection[str], timeout: float) -> None:
        """Until each of the origins has completed a listing or is gone, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while set(names).intersection(self.unsynced):
                    self._listed.clear()
                    await self._listed.wait()

    async def release(self, keys: frozenset[ServiceKey]) -> int:
        """Let go of what is held of some services; returns how many instances that are."""
        return sum([await source.release(keys) for source in self.sources.values()])

    async def catalogs(self) -> AsyncIterator[Catalog]:
        """The latest catalog, whenever there is one that differs; the first when every origin is ready.

        Raises whatever an adapter raised that was not an AdapterError.
        """
        while True:
            await self._wait()
            self._debounce = self._debounce.fired(time.monotonic())
            if self._merged is None and not self.ready:
                continue  # a world half read is never shown
            now = time.monotonic()
            for source in list(self._sources.values()):
                await source.advance(now)
            changed_at, self._changed_at = self._changed_at, None
            shown = [snapshot for source in self.sources.values() if (snapshot := source.read()) is not None]
            before = self._merged
            step = partial(merge, shown, before, self._merge_rules)
            self._merged = await in_thread(step) if self._is_large(shown) else step()
            catalog = self._merged.catalog
            said = (catalog.conflicts, catalog.removed)
            if before is None or catalog.changed or said != (before.catalog.conflicts, before.catalog.removed):
                yield msgspec.structs.replace(catalog, changed_at=changed_at if before else None)

    def _is_large(self, shown: Sequence[Snapshot]) -> bool:
        """Whether it takes a while to merge this."""
        before = self._merged
        if before is None or (before.rules, list(before.snapshots)) != (
            self._merge_rules,
            [s.origin.name for s in shown],
        ):
            return is_large(None, *(s.services for s in shown))
        news = (s for s in shown if s is not before.snapshots[s.origin.name])
        return any(is_large(s.changed, s.services, before.snapshots[s.origin.name].services) for s in news)

    def _source(self, adapter: Adapter, status: OriginStatus) -> Source:
        lastgood = LastGood(self._directory, adapter.origin) if self._directory else None
        return Source(adapter, status, self._rules, lastgood, self._event)

    def _start(self, source: Source) -> None:
        name = source.adapter.origin.name
        self._sources[name] = source
        if name not in self._order:
            self._order.append(name)
        source.start(self._ended)

    def _event(self) -> None:
        now = time.monotonic()
        self._debounce = self._debounce.event(now)
        if self._changed_at is None:
            self._changed_at = now
        self._listed.set()
        self._wake.set()

    async def _wait(self) -> None:
        """Until a catalog is due: a burst is over, a hold or a grace has ended, or the time to wait for origins is up."""
        while True:
            now = time.monotonic()
            due = self._due(now)
            if due is not None and due <= now:
                return
            self._wake.clear()
            waiter = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait(
                    (waiter, self._failed),
                    timeout=None if due is None else due - now,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                waiter.cancel()
            if self._failed.done():
                self._failed.result()

    def _due(self, now: float) -> float | None:
        dues = [self._debounce.due, *(source.due for source in self._sources.values())]
        if self._merged is None and any(source.shown is None for source in self._sources.values()):
            if now < self._deadline:
                dues.append(self._deadline)
            else:
                for source in self._sources.values():
                    source.fall_back()
                # Those that have nothing are waited for no longer, if there is another that has.
                dues.append(now if self.ready else None)
        return min((due for due in dues if due is not None), default=None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        if error is not None:
            self._failed.set_exception(error)
