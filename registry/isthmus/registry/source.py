"""One origin, from its adapter to what the catalog is made of: supervised, guarded, drained, audited, and kept on disk.

What a source shows is the adapter's last snapshot, with the instances that are held (`guard`) and those on their way out
(`drain`) laid over it. Until its registry has been listed once it may show what was saved by an earlier process (`lastgood`), and
the first listing then has to stand the guard's comparison with that, like any listing after an interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog

from isthmus.registry.adapter import Adapter, AdapterError
from isthmus.registry.audit import drifted
from isthmus.registry.drain import Drained, DrainRules, Leaving
from isthmus.registry.guard import Guarded, GuardRules, Hold
from isthmus.registry.lastgood import LastGood, Saved
from isthmus.registry.model import ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.passage import Passage, advance, release, take
from isthmus.registry.supervise import supervise
from isthmus.registry.thread import LARGE, in_thread, is_large

log = structlog.get_logger()

SAVE_AFTER = 5.0
"""Seconds from a change until it is on disk, and so at the least between two writes."""
AUDIT_PATIENCE = 5.0
"""Seconds that a watch has to bring what a listing of the same moment shows already."""


Holds = Mapping[tuple[ServiceKey, str], Hold]


class SourceRules(msgspec.Struct, frozen=True):
    """How an origin is treated. `audit` is the number of seconds between two audits, 0 for none."""

    guard: GuardRules = GuardRules()
    drain: DrainRules = DrainRules()
    audit: float = 3600.0


class Source:
    """One origin that is being watched. `wake` is called whenever what it shows has changed."""

    def __init__(
        self,
        adapter: Adapter,
        status: OriginStatus,
        rules: SourceRules,
        lastgood: LastGood | None,
        wake: Callable[[], None],
    ) -> None:
        self.adapter = adapter
        self.status = status
        self._rules = rules
        self._lastgood = lastgood
        self._wake = wake
        self._saved: Saved | None = None
        self._passage: Passage | None = None
        self._moving = asyncio.Lock()
        """Held while the passage is made anew from what it was before."""
        self._unread: frozenset[ServiceKey] | None = None
        self._read: Snapshot | None = None
        self._unsaved = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._others: list[asyncio.Task[None]] = []

    def start(self, on_crash: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin to watch. `on_crash` is called with a task that has ended, which it does only by a programming error."""
        self._on_crash = on_crash
        self._start_watch()
        name = self.adapter.origin.name
        if self._lastgood:
            self._others.append(asyncio.create_task(self._save(self._lastgood), name=f"registry {name} save"))
        if self._rules.audit:
            self._others.append(asyncio.create_task(self._audit(), name=f"registry {name} audit"))
        for task in self._others:
            task.add_done_callback(on_crash)

    async def stop(self) -> None:
        """Stop watching; what is known and not saved yet is saved."""
        tasks = [t for t in (self._watch, *self._others) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lastgood and self._unsaved.is_set():
            await self._write(self._lastgood)

    def inherit(self, other: Source) -> None:
        """Go on from what another source of the same origin knew, whose settings have been replaced."""
        self._passage, self._unread = other._passage, other._unread

    def fall_back(self) -> None:
        """Show what was saved by an earlier process, if the registry has not been listed by now."""
        if self._passage is None and self._saved is not None:
            saved, self._saved = self._saved, None
            self.status.went_back_to(saved.saved_at)
            log.warning(
                "registry.last_known_good",
                origin=self.adapter.origin.name,
                saved_at=saved.saved_at,
                services=len(saved.snapshot.services),
            )
            self._show(Passage(Guarded(saved.snapshot, saved.snapshot), Drained(saved.snapshot, saved.snapshot)))

    @property
    def shown(self) -> Snapshot | None:
        """What the origin adds to the catalog; None while nothing is known."""
        return self._passage.drained.shown if self._passage else None

    @property
    def listed(self) -> Snapshot | None:
        """What the registry itself said last."""
        return self._passage.guarded.incoming if self._passage else None

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Instances that are shown although the registry does not list them."""
        return tuple(self._passage.guarded.holds.values()) if self._passage else ()

    @property
    def leaving(self) -> tuple[Leaving, ...]:
        """Instances that are draining because the registry has let them go."""
        return tuple(self._passage.drained.leaving.values()) if self._passage else ()

    @property
    def due(self) -> float | None:
        """The monotonic second at which a hold or a grace ends; None while something else is done with them."""
        return None if self._passage is None or self._moving.locked() else self._passage.due

    async def advance(self, now: float) -> None:
        """Let holds and graces end that are over at `now`."""
        if (due := self.due) is not None and due <= now:
            await self._move(partial(advance, now=now, draining=self._rules.drain))

    async def release(self, keys: frozenset[ServiceKey]) -> int:
        """Let go of what is held of some services; returns how many instances that are."""
        released = sum(hold.key in keys for hold in self.holds)
        if released:
            await self._move(partial(release, keys=keys, now=time.monotonic(), draining=self._rules.drain))
        return released

    def read(self) -> Snapshot | None:
        """What is shown, with the hint of what has changed since it was read last."""
        if self._passage is None:
            return None
        if self._read is None or self._unread is None or self._unread:
            self._read = msgspec.structs.replace(self._passage.drained.shown, changed=self._unread)
        self._unread = frozenset()
        return self._read

    def _start_watch(self) -> None:
        self._watch = asyncio.create_task(self._follow(), name=f"registry {self.adapter.origin.name}")
        self._watch.add_done_callback(self._on_crash)

    async def _follow(self) -> None:
        if self._lastgood and self._passage is None:
            self._saved = await in_thread(self._lastgood.load)
            self._wake()
        await supervise(self.adapter, self.status, self._take, self.fall_back)

    async def _take(self, snapshot: Snapshot, relisted: bool) -> None:
        if relisted:
            snapshot = msgspec.structs.replace(snapshot, changed=None)
        saved, self._saved = self._saved, None
        async with self._moving:
            before = self._passage
            known = saved.snapshot if before is None and saved else before
            had = known.guarded.admitted if isinstance(known, Passage) else known
            rules, now = self._rules, time.monotonic()
            step = partial(take, known, snapshot, now, relisted=relisted, guarding=rules.guard, draining=rules.drain)
            large = is_large(snapshot.changed, snapshot.services, had.services if had else {})
            after = await in_thread(step) if large else step()
            self._put(after)
        await self._say(before, after)

    async def _move(self, step: Callable[[Passage], Passage]) -> None:
        """From what is known to what follows from it."""
        async with self._moving:
            before = self._passage
            if before is None:
                return
            after = await in_thread(step, before) if before.kept > LARGE else step(before)
            if after is before:
                return
            self._put(after)
        await self._say(before, after)

    def _put(self, passage: Passage) -> None:
        self._unsaved.set()
        self._show(passage)

    def _show(self, passage: Passage) -> None:
        hint = passage.drained.shown.changed
        self._unread = None if self._passage is None or hint is None or self._unread is None else self._unread | hint
        self._passage, self._read = passage, None
        self._wake()

    async def _say(self, before: Passage | None, after: Passage) -> None:
        held, holds = before.guarded.holds if before else {}, after.guarded.holds
        if len(held) + len(holds) > LARGE:
            await in_thread(_say_held, held, holds)
        elif held or holds:
            _say_held(held, holds)

    async def _save(self, lastgood: LastGood) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER)
            self._unsaved.clear()
            await self._write(lastgood)

    async def _write(self, lastgood: LastGood) -> None:
        if self._passage is None:
            return
        try:
            await asyncio.to_thread(lastgood.save, self._passage.guarded.admitted)
        except OSError as e:
            log.warning("lastgood.not_saved", origin=self.adapter.origin.name, error=str(e))

    async def _audit(self) -> None:
        """Now and then, list everything anew and compare it with what the watches have brought."""
        while True:
            await asyncio.sleep(self._rules.audit * random.uniform(0.5, 1.5))  # noqa: S311 - so that replicas do not do it in step
            with contextlib.suppress(AdapterError):  # a registry that cannot be read is the supervisor's affair
                await self._compare()

    async def _compare(self) -> None:
        watched = self.listed
        if watched is None or self.status.stale_since is not None:
            return
        first = await self.adapter.listing()
        if not drifted(watched, first):
            self.status.audited(0)
            return
        # Either may be a moment behind the other. What both listings say and the watch does not bring is no such moment.
        await asyncio.sleep(AUDIT_PATIENCE)
        second = await self.adapter.listing()
        watched = self.listed
        if watched is None or self.status.stale_since is not None:
            return
        drift = {
            k: what for k, what in drifted(watched, second).items() if first.services.get(k) == second.services.get(k)
        }
        self.status.audited(len(drift))
        for key, what in drift.items():
            log.error("registry.drift", origin=self.adapter.origin.name, service=str(key), difference=what)
        if drift and self._watch is not None:
            self._watch.remove_done_callback(self._on_crash)
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._start_watch()


def _say_held(before: Holds, after: Holds) -> None:
    for at, hold in after.items():
        if at not in before:
            log.warning(
                "registry.held",
                service=str(hold.key),
                instance=hold.instance.id,
                rule=hold.rule,
                reason=hold.reason,
            )
    for key, instance in before.keys() - after.keys():
        log.info("registry.hold_ended", service=str(key), instance=instance)
