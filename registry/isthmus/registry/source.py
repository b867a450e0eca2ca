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
from collections.abc import Callable

import msgspec
import structlog

from isthmus.registry.adapter import Adapter, AdapterError
from isthmus.registry.audit import drifted
from isthmus.registry.drain import Drained, DrainRules, Leaving, drain, leave
from isthmus.registry.guard import Guarded, GuardRules, Hold, expire, guard
from isthmus.registry.lastgood import LastGood, Saved
from isthmus.registry.model import ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.supervise import supervise

log = structlog.get_logger()

SAVE_AFTER = 5.0
"""Seconds from a change until it is on disk, and so at the least between two writes."""
AUDIT_PATIENCE = 5.0
"""Seconds that a watch has to bring what a listing of the same moment shows already."""


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
        self._saved: Saved | None = lastgood.load() if lastgood else None
        self._guarded: Guarded | None = None
        self._drained: Drained | None = None
        self._unread: frozenset[ServiceKey] | None = None
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
        self._guarded, self._drained, self._unread = other._guarded, other._drained, other._unread

    def fall_back(self) -> None:
        """Show what was saved by an earlier process, if the registry has not been listed by now."""
        if self._guarded is None and self._saved is not None:
            saved, self._saved = self._saved, None
            self.status.went_back_to(saved.saved_at)
            log.warning(
                "registry.last_known_good",
                origin=self.adapter.origin.name,
                saved_at=saved.saved_at,
                services=len(saved.snapshot.services),
            )
            self._guarded = Guarded(saved.snapshot, saved.snapshot)
            self._show(drain(None, saved.snapshot, time.monotonic(), self._rules.drain))

    @property
    def shown(self) -> Snapshot | None:
        """What the origin adds to the catalog; None while nothing is known."""
        return self._drained.shown if self._drained else None

    @property
    def listed(self) -> Snapshot | None:
        """What the registry itself said last."""
        return self._guarded.incoming if self._guarded else None

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Instances that are shown although the registry does not list them."""
        return tuple(self._guarded.holds.values()) if self._guarded else ()

    @property
    def leaving(self) -> tuple[Leaving, ...]:
        """Instances that are draining because the registry has let them go."""
        return tuple(self._drained.leaving.values()) if self._drained else ()

    @property
    def due(self) -> float | None:
        """The monotonic second at which a hold or a grace ends."""
        dues = [x.due for x in (self._guarded, self._drained) if x is not None and x.due is not None]
        return min(dues, default=None)

    def advance(self, now: float) -> None:
        """Let holds and graces end that are over at `now`."""
        if self._guarded is None or self._drained is None:
            return
        guarded = expire(self._guarded, now)
        if guarded is not self._guarded:
            self._admit(guarded, now)
        drained = leave(self._drained, now)
        if drained is not self._drained:
            self._show(drained)

    def release(self, keys: frozenset[ServiceKey]) -> int:
        """Let go of what is held of some services; returns how many instances that are."""
        if self._guarded is None:
            return 0
        released = [at for at in self._guarded.holds if at[0] in keys]
        if released:
            self._admit(expire(self._guarded, time.monotonic(), released=frozenset(released)), time.monotonic())
        return len(released)

    def read(self) -> Snapshot | None:
        """What is shown, with the hint of what has changed since it was read last."""
        if self._drained is None:
            return None
        if self._unread is None or self._unread:
            shown = msgspec.structs.replace(self._drained.shown, changed=self._unread)
            self._drained = msgspec.structs.replace(self._drained, shown=shown)
        self._unread = frozenset()
        return self._drained.shown

    def _start_watch(self) -> None:
        self._watch = asyncio.create_task(
            supervise(self.adapter, self.status, self._take, self.fall_back),
            name=f"registry {self.adapter.origin.name}",
        )
        self._watch.add_done_callback(self._on_crash)

    def _take(self, snapshot: Snapshot, relisted: bool) -> None:
        now = time.monotonic()
        before = self._guarded
        if before is None and self._saved is not None:
            before = Guarded(self._saved.snapshot, self._saved.snapshot)
            self._saved = None
        if relisted:
            snapshot = msgspec.structs.replace(snapshot, changed=None)
        self._admit(guard(before, snapshot, now, relisted=relisted, rules=self._rules.guard), now)

    def _admit(self, guarded: Guarded, now: float) -> None:
        held = self._guarded.holds if self._guarded else {}
        self._guarded = guarded
        for at, hold in guarded.holds.items():
            if at not in held:
                log.warning(
                    "registry.held",
                    service=str(hold.key),
                    instance=hold.instance.id,
                    rule=hold.rule,
                    reason=hold.reason,
                )
        for key, instance in held.keys() - guarded.holds.keys():
            log.info("registry.hold_ended", service=str(key), instance=instance)
        self._unsaved.set()
        self._show(drain(self._drained, guarded.admitted, now, self._rules.drain))

    def _show(self, drained: Drained) -> None:
        hint = drained.shown.changed
        self._unread = None if self._drained is None or hint is None or self._unread is None else self._unread | hint
        self._drained = drained
        self._wake()

    async def _save(self, lastgood: LastGood) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER)
            self._unsaved.clear()
            await self._write(lastgood)

    async def _write(self, lastgood: LastGood) -> None:
        if self._guarded is None:
            return
        try:
            await asyncio.to_thread(lastgood.save, self._guarded.admitted)
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
