"""What an origin said, on its way to the catalog: through the guard, then through the drain. `now` is in monotonic seconds."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from isthmus.registry.drain import Drained, DrainRules, drain, leave
from isthmus.registry.guard import Guarded, GuardRules, expire, guard
from isthmus.registry.model import ServiceKey, Snapshot


class Passage(msgspec.Struct, frozen=True):
    """One origin behind both."""

    guarded: Guarded
    drained: Drained

    @property
    def due(self) -> float | None:
        """When the next hold or grace ends."""
        dues = [x.due for x in (self.guarded, self.drained) if x.due is not None]
        return min(dues, default=None)

    @property
    def kept(self) -> int:
        """How many instances are shown that the origin does not list, those included that are leaving."""
        return len(self.guarded.holds) + len(self.drained.leaving)


def take(
    before: Passage | Snapshot | None,
    snapshot: Snapshot,
    now: float,
    *,
    relisted: bool,
    guarding: GuardRules,
    draining: DrainRules,
) -> Passage:
    """The origin has said something; `relisted` as in `guard`. Before it may be what was saved, which nobody was shown."""
    known, shown = (before.guarded, before.drained) if isinstance(before, Passage) else (None, None)
    if isinstance(before, Snapshot):
        known = Guarded(before, before)
    guarded = guard(known, snapshot, now, relisted=relisted, rules=guarding)
    return Passage(guarded, drain(shown, guarded.admitted, now, draining))


def advance(before: Passage, now: float, draining: DrainRules) -> Passage:
    """Let holds and graces end that are over."""
    return _drained(before, expire(before.guarded, now), now, draining)


def release(before: Passage, keys: AbstractSet[ServiceKey], now: float, draining: DrainRules) -> Passage:
    """Let go of what is held of some services."""
    released = frozenset(at for at in before.guarded.holds if at[0] in keys)
    return _drained(before, expire(before.guarded, now, released), now, draining) if released else before


def _drained(before: Passage, guarded: Guarded, now: float, draining: DrainRules) -> Passage:
    # The drain ends what is over whenever something comes in.
    if guarded is not before.guarded:
        return Passage(guarded, drain(before.drained, guarded.admitted, now, draining))
    drained = leave(before.drained, now)
    return before if drained is before.drained else Passage(guarded, drained)
