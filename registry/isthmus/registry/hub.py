"""All origins, each run for ever behind its guard, become one catalog at a time.

Between the stages there are cells that hold the latest value, never queues: an adapter that is quicker than translation
overwrites its snapshot, and the hints of what changed are united, so that skipping a state loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import msgspec
import structlog

from isthmus.registry.adapter import Adapter
from isthmus.registry.debounce import Debounce
from isthmus.registry.guard import Guarded, GuardRules, Hold, expire, guard
from isthmus.registry.merge import MergeState, merge
from isthmus.registry.model import Catalog, ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.supervise import supervise

log = structlog.get_logger()

QUIET = 0.002
"""Seconds without a further snapshot before a catalog is made: what one registry answer brings in pieces stays together."""
MAXIMUM = 0.05
"""Seconds that a change waits at the most while others keep coming."""


class _Running:
    """One origin that is being watched."""

    def __init__(self, adapter: Adapter, status: OriginStatus) -> None:
        self.adapter = adapter
        self.status = status
        self.task: asyncio.Task[None] | None = None
        self.guarded: Guarded | None = None
        self.unread: frozenset[ServiceKey] | None = frozenset()
        """Keys that changed since the last catalog; None when everything may have."""


class Hub:
    """Watches origins and yields catalogs.

    Origins may be added, replaced and removed while it runs; the others do not notice. The order of `set_order` is the order of
    precedence. `sync_timeout` is how long, in seconds, the first catalog waits for an origin that does not answer.
    """

    def __init__(self, rules: GuardRules, sync_timeout: float) -> None:
        self._rules = rules
        self._sync_timeout = sync_timeout
        self._running: dict[str, _Running] = {}
        self._order: list[str] = []
        self._wake = asyncio.Event()
        self._listed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._debounce = Debounce(QUIET, MAXIMUM)
        self._changed_at: float | None = None
        self._merged: MergeState | None = None
        self._started = time.monotonic()

    def add(self, adapter: Adapter, status: OriginStatus) -> None:
        """Begin to watch an origin."""
        name = adapter.origin.name
        running = _Running(adapter, status)
        self._running[name] = running
        if name not in self._order:
            self._order.append(name)
        running.task = asyncio.create_task(
            supervise(adapter, status, lambda snapshot, relisted: self._take(running, snapshot, relisted)),
            name=f"registry {name}",
        )
        running.task.add_done_callback(self._task_done)

    async def remove(self, name: str) -> None:
        """Stop watching an origin; what it alone knew leaves the catalog."""
        running = self._running.pop(name)
        self._order.remove(name)
        await _cancel(running)
        self._event(time.monotonic())

    async def replace(self, adapter: Adapter, status: OriginStatus) -> None:
        """Watch an origin with other settings; what it said last stays until all is listed anew."""
        before = self._running[adapter.origin.name]
        await _cancel(before)
        self.add(adapter, status)
        after = self._running[adapter.origin.name]
        after.guarded, after.unread = before.guarded, before.unread

    def set_order(self, names: Sequence[str]) -> None:
        """Order of precedence, when origins disagree."""
        self._order = list(names)
        self._event(time.monotonic())

    async def close(self) -> None:
        """Stop watching everything."""
        for running in self._running.values():
            await _cancel(running)

    @property
    def statuses(self) -> Mapping[str, OriginStatus]:
        """How each origin is doing, in order of precedence."""
        return {name: self._running[name].status for name in self._order}

    def snapshot(self, name: str) -> Snapshot | None:
        """What is known of an origin, held instances included; None before its first listing."""
        guarded = self._running[name].guarded
        return guarded.admitted if guarded else None

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Every instance that is served although its registry does not list it."""
        return tuple(h for r in self._running.values() if r.guarded for h in r.guarded.holds.values())

    @property
    def unsynced(self) -> list[str]:
        """Origins that have not completed a listing yet."""
        return [name for name in self._order if not self._running[name].status.synced]

    @property
    def ready(self) -> bool:
        """Every origin has listed once, or has had its time to and another one has.

        Nothing at all is never ready: to show an empty world to proxies that come back would take from them all they have.
        """
        time_is_up = time.monotonic() - self._started >= self._sync_timeout
        return not self.unsynced or (time_is_up and len(self.unsynced) < len(self._order))

    async def wait_synced(self, names: Collection[str], timeout: float) -> None:
        """Until each of the origins has completed a listing or is gone, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while set(names).intersection(self.unsynced):
                    self._listed.clear()
                    await self._listed.wait()

    async def catalogs(self) -> AsyncIterator[Catalog]:
        """The latest catalog, whenever there is one that differs; the first when every origin is ready.

        Raises whatever an adapter raised that was not an AdapterError.
        """
        while True:
            await self._wait()
            self._debounce = self._debounce.fired()
            if self._merged is None and not self.ready:
                continue  # a world half read is never shown
            self._expire(time.monotonic())
            changed_at, self._changed_at = self._changed_at, None
            snapshots = self._unread_snapshots()
            merged = merge(snapshots, self._merged)
            before = self._merged
            self._merged = merged
            if before is None or merged.catalog.changed or merged.catalog.conflicts != before.catalog.conflicts:
                yield msgspec.structs.replace(merged.catalog, changed_at=changed_at if before else None)

    def _unread_snapshots(self) -> list[Snapshot]:
        snapshots: list[Snapshot] = []
        for name in self._order:
            running = self._running[name]
            if running.guarded is None:
                continue
            before = self._merged.snapshots.get(name) if self._merged else None
            snapshot = running.guarded.admitted
            if before is None or snapshot is not before:
                snapshot = msgspec.structs.replace(snapshot, changed=running.unread if before else None)
                running.guarded = msgspec.structs.replace(running.guarded, admitted=snapshot)
            running.unread = frozenset()
            snapshots.append(snapshot)
        return snapshots

    def _take(self, running: _Running, snapshot: Snapshot, relisted: bool) -> None:
        now = time.monotonic()
        held = running.guarded.holds if running.guarded else {}
        running.guarded = guard(running.guarded, snapshot, now, relisted=relisted, rules=self._rules)
        for at, hold in running.guarded.holds.items():
            if at not in held:
                log.warning("registry.held", service=str(hold.key), instance=hold.instance.id, reason=hold.reason)
        for at in held.keys() - running.guarded.holds.keys():
            log.info("registry.hold_ended", service=str(at[0]), instance=at[1])
        hint = running.guarded.admitted.changed
        if relisted or hint is None or running.unread is None:
            running.unread = None
        else:
            running.unread |= hint
        self._listed.set()
        self._event(now)

    def _expire(self, now: float) -> None:
        for running in self._running.values():
            if running.guarded is None:
                continue
            after = expire(running.guarded, now)
            if after is not running.guarded:
                for key, instance in running.guarded.holds.keys() - after.holds.keys():
                    log.info("registry.hold_ended", service=str(key), instance=instance)
                hint = after.admitted.changed
                running.unread = None if hint is None or running.unread is None else running.unread | hint
                running.guarded = after

    def _event(self, now: float) -> None:
        self._debounce = self._debounce.event(now)
        if self._changed_at is None:
            self._changed_at = now
        self._wake.set()

    async def _wait(self) -> None:
        """Until a catalog is due: a burst is over, a hold has ended, or the time to wait for origins is up."""
        while True:
            now = time.monotonic()
            due = [d for d in (self._debounce.due, self._next_hold_end(), self._sync_deadline()) if d is not None]
            if due and min(due) <= now:
                return
            self._wake.clear()
            waiter = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait(
                    (waiter, self._failed), timeout=min(due) - now if due else None, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiter.cancel()
            if self._failed.done():
                self._failed.result()

    def _next_hold_end(self) -> float | None:
        return min((d for r in self._running.values() if r.guarded and (d := r.guarded.due) is not None), default=None)

    def _sync_deadline(self) -> float | None:
        waiting_for_some = 0 < len(self.unsynced) < len(self._order)
        return self._started + self._sync_timeout if self._merged is None and waiting_for_some else None

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        if error is not None:
            self._failed.set_exception(error)


async def _cancel(running: _Running) -> None:
    if running.task is not None:
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
