"""What vanished while nobody was looking is held back for a while before it is believed.

Theory of operation. An instance that disappears while a watch is running was seen to go: a deregistration, which passes at once.
An instance that is missing from a *complete listing after an interruption* was not seen to go, and two findings make such an
absence suspect: the registry's position went back (it was restarted empty, or restored from an old copy), or more than half of
the instances are gone at once. A third makes the absence of whole services suspect: the listing does not name all that there
may be (`Snapshot.unlisted`). Suspect absences are held: the instance stays as it was, for `GuardRules.hold` seconds, or until
it turns up again, after which its next disappearance counts as seen. Where the adapter itself says that absence proves nothing
(`Snapshot.doubt` of everything, `Snapshot.doubts` of single services), it is held for as long as that doubt lasts.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Instance, ServiceKey, Snapshot
from isthmus.registry.overlay import is_absent, overlay


class GuardRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When absence is suspect and for how long it is not believed.

    `hold` is in seconds; 0 switches the guard off. `shrink` is the share of an origin's instances, 0 to 1, that may be missing
    after an interruption without making the absence suspect.
    """

    hold: float = 300.0
    shrink: float = 0.5


class Hold(msgspec.Struct, frozen=True):
    """One instance that its registry no longer lists and that is served all the same.

    `until` is a monotonic second; None means for as long as the doubt lasts.
    """

    key: ServiceKey
    instance: Instance
    reason: str
    since: float
    until: float | None


class Guarded(msgspec.Struct, frozen=True):
    """One origin behind its guard: what it said last, what is let through, and what is held."""

    incoming: Snapshot
    admitted: Snapshot
    holds: Mapping[tuple[ServiceKey, str], Hold] = {}

    @property
    def due(self) -> float | None:
        """The monotonic second at which the next hold ends."""
        return min((h.until for h in self.holds.values() if h.until is not None), default=None)


def guard(before: Guarded | None, incoming: Snapshot, now: float, *, relisted: bool, rules: GuardRules) -> Guarded:
    """Let a snapshot through, apart from absences that are suspect.

    `relisted` says that it is the first one after an interruption. The admitted snapshot's hint is relative to the one
    admitted before.
    """
    if before is None or rules.hold <= 0:
        return Guarded(incoming, incoming)
    general = _suspicion(before.admitted, incoming, now, relisted=relisted, rules=rules)
    holds = {
        at: hold
        for at, hold in before.holds.items()
        if is_absent(hold.key, hold.instance, incoming) and not _over(hold, incoming, now)
    }
    if general or incoming.doubts or incoming.unlisted:
        for key in _shrunken(before.admitted, incoming):
            suspicion = _suspicion_of(key, incoming, now, general, relisted=relisted, rules=rules)
            if suspicion is None:
                continue
            for instance in before.admitted.services[key].instances:
                hold = holds.get((key, instance.id))
                lasts = hold is not None and (hold.until is None or suspicion.until is not None)
                if not lasts and is_absent(key, instance, incoming):
                    holds[key, instance.id] = Hold(key, instance, suspicion.reason, now, suspicion.until)
    return _admit(before, incoming, holds)


def expire(before: Guarded, now: float, released: frozenset[tuple[ServiceKey, str]] = frozenset()) -> Guarded:
    """Let go of the holds whose time is over, and of those that an operator has released."""
    holds = {at: h for at, h in before.holds.items() if at not in released and (h.until is None or h.until > now)}
    if len(holds) == len(before.holds):
        return before
    return _admit(before, msgspec.structs.replace(before.incoming, changed=frozenset()), holds)


class _Suspicion(msgspec.Struct, frozen=True):
    """Why an absence is not believed, and until when; None means for as long as the doubt lasts."""

    reason: str
    until: float | None


def _suspicion(
    before: Snapshot, incoming: Snapshot, now: float, *, relisted: bool, rules: GuardRules
) -> _Suspicion | None:
    """What holds for every absence."""
    if incoming.doubt:
        return _Suspicion(incoming.doubt, None)
    if not relisted:
        return None
    if before.cursor.isdecimal() and incoming.cursor.isdecimal() and int(incoming.cursor) < int(before.cursor):
        reason = (
            f"the registry's position went back from {before.cursor} to {incoming.cursor}: restarted empty or restored"
        )
        return _Suspicion(reason, now + rules.hold)
    had, has = _count(before), _count(incoming)
    if had and has < had * (1 - rules.shrink):
        return _Suspicion(f"only {has} of {had} instances were left after an interruption", now + rules.hold)
    return None


def _suspicion_of(
    key: ServiceKey, incoming: Snapshot, now: float, general: _Suspicion | None, *, relisted: bool, rules: GuardRules
) -> _Suspicion | None:
    """What holds for the absences of one service; a doubt outlasts the finding that has an end."""
    if (doubt := incoming.doubts.get(key)) and not incoming.doubt:
        return _Suspicion(doubt, None)
    if general is None and relisted and incoming.unlisted and key not in incoming.services:
        return _Suspicion(incoming.unlisted, now + rules.hold)
    return general


def _count(snapshot: Snapshot) -> int:
    return sum(len(s.instances) for s in snapshot.services.values())


def _shrunken(before: Snapshot, incoming: Snapshot) -> list[ServiceKey]:
    keys = before.services if incoming.changed is None else incoming.changed & before.services.keys()
    return [key for key in keys if before.services[key] != incoming.services.get(key)]


def _over(hold: Hold, incoming: Snapshot, now: float) -> bool:
    if hold.until is None:
        return not incoming.doubt and hold.key not in incoming.doubts
    return hold.until <= now


def _admit(before: Guarded, incoming: Snapshot, holds: Mapping[tuple[ServiceKey, str], Hold]) -> Guarded:
    touched = {key for key, _ in holds.keys() ^ before.holds.keys()}
    extra = [(hold.key, hold.instance) for hold in holds.values()]
    return Guarded(incoming, overlay(incoming, extra, before.admitted.services, touched), holds)
