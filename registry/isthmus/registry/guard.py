"""What vanished while nobody was looking is held back for a while before it is believed.

Theory of operation. An instance that disappears while a watch is running was seen to go: a deregistration, which passes at once.
An instance that is missing from a *complete listing after an interruption* was not seen to go, and two findings make such an
absence suspect: the registry's position went back (it was restarted empty, or restored from an old copy), or more than half of
the instances are gone at once. A third makes the absence of whole services suspect: the listing does not name all that there
may be (`Snapshot.unlisted`). Suspect absences are held: the instance stays as it was, for `GuardRules.hold` seconds, or until
it turns up again, after which its next disappearance counts as seen. Where the adapter itself says that absence proves nothing
(`Snapshot.doubt` of everything, `Snapshot.doubts` of single services), it is held for as long as that doubt lasts.

Services may have rules of their own (`GuardRules.services`). A share of their own is compared with their own instances, so that
it holds though the origin as a whole has lost few, and lets go though the origin has lost many.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec

from isthmus.registry.model import Instance, Service, ServiceKey, Snapshot
from isthmus.registry.overlay import missing, overlay, returned
from isthmus.registry.reuse import reuse_services

_SHRINK = "guard.shrink"

MAX_HOLD = 7 * 24 * 3600
"""Seconds; whoever does not believe a registry for a week has another problem."""


class ServiceGuard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other rules for some services: those whose name, or `name.namespace`, is `name` or matches it as a pattern (* ? [ab]).

    What is left out is as for all services. `shrink` is of the service's own instances.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    hold: Annotated[float, msgspec.Meta(ge=0, le=MAX_HOLD)] | None = None
    shrink: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def covers(self, key: ServiceKey) -> bool:
        """Whether it is meant for a service."""
        return fnmatchcase(key.name, self.name) or fnmatchcase(str(key), self.name)


class GuardRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When absence is suspect and for how long it is not believed.

    `hold` is in seconds; 0 switches the guard off. `shrink` is the share of an origin's instances, 0 to 1, that may be missing
    after an interruption without making the absence suspect. The first of `services` that covers a service changes that for it.
    """

    hold: float = 300.0
    shrink: float = 0.5
    services: tuple[ServiceGuard, ...] = ()

    def own(self, key: ServiceKey) -> ServiceGuard | None:
        """The rules that a service has for itself."""
        return next((s for s in self.services if s.covers(key)), None)


class Hold(msgspec.Struct, frozen=True):
    """One instance that its registry no longer lists and that is served all the same.

    `until` is a monotonic second; None means for as long as the doubt lasts. `rule` is what holds it: `doubt`, `position`,
    `unlisted`, `guard.shrink`, or a rule of `guard.services` by its name.
    """

    key: ServiceKey
    instance: Instance
    reason: str
    since: float
    until: float | None
    rule: str = ""


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
    if before is None:
        return Guarded(incoming, incoming)
    incoming = reuse_services(before.incoming, incoming)
    if rules.hold <= 0 and not rules.services:
        return Guarded(incoming, incoming)
    general = _suspicion(before.admitted, incoming, now, relisted=relisted, rules=rules)
    back = returned(_extra(before.holds), before.incoming, incoming)
    holds = {at: hold for at, hold in before.holds.items() if at not in back and not _over(hold, incoming, now)}
    if general or incoming.doubts or incoming.unlisted or (relisted and rules.services):
        for key in _shrunken(before.admitted, incoming):
            had = before.admitted.services[key]
            suspicion = _suspicion_of(had, incoming, now, general, relisted=relisted, rules=rules)
            if suspicion is None:
                continue
            for instance in missing(had.instances, incoming.services.get(key)):
                hold = holds.get((key, instance.id))
                lasts = hold is not None and (hold.until is None or suspicion.until is not None)
                if not lasts:
                    holds[key, instance.id] = Hold(
                        key, instance, suspicion.reason, now, suspicion.until, suspicion.rule
                    )
    return _admit(before, incoming, holds)


def expire(before: Guarded, now: float, released: frozenset[tuple[ServiceKey, str]] = frozenset()) -> Guarded:
    """Let go of the holds whose time is over, and of those that an operator has released."""
    holds = {at: h for at, h in before.holds.items() if at not in released and (h.until is None or h.until > now)}
    if len(holds) == len(before.holds):
        return before
    return _admit(before, msgspec.structs.replace(before.incoming, changed=frozenset()), holds)


class _Suspicion(msgspec.Struct, frozen=True):
    """Why an absence is not believed, and until when; None means for as long as the doubt lasts."""

    rule: str
    reason: str
    until: float | None


def _suspicion(
    before: Snapshot, incoming: Snapshot, now: float, *, relisted: bool, rules: GuardRules
) -> _Suspicion | None:
    """What holds for every absence."""
    until = now + rules.hold
    if incoming.doubt:
        return _Suspicion("doubt", incoming.doubt, None)
    if not relisted:
        return None
    if before.cursor.isdecimal() and incoming.cursor.isdecimal() and int(incoming.cursor) < int(before.cursor):
        reason = (
            f"the registry's position went back from {before.cursor} to {incoming.cursor}: restarted empty or restored"
        )
        return _Suspicion("position", reason, until)
    had, has = _count(before), _count(incoming)
    if had and has < had * (1 - rules.shrink):
        return _Suspicion(_SHRINK, f"only {has} of {had} instances were left after an interruption", until)
    return None


def _suspicion_of(
    had: Service, incoming: Snapshot, now: float, general: _Suspicion | None, *, relisted: bool, rules: GuardRules
) -> _Suspicion | None:
    """What holds for the absences of one service; a doubt outlasts the finding that has an end."""
    key = had.key
    own = rules.own(key)
    hold = rules.hold if own is None or own.hold is None else own.hold
    if hold <= 0:
        return None
    if (doubt := incoming.doubts.get(key)) and not incoming.doubt:
        return _Suspicion("doubt", doubt, None)
    found = general
    if own is not None and own.shrink is not None and relisted and (general is None or general.rule == _SHRINK):
        found = _shrinkage(had, incoming, now, own.shrink, f"guard.services {own.name}")
    if found is None and relisted and incoming.unlisted and key not in incoming.services:
        found = _Suspicion("unlisted", incoming.unlisted, now)
    if found is None or found.until is None:
        return found
    return msgspec.structs.replace(found, until=now + hold)


def _shrinkage(had: Service, incoming: Snapshot, now: float, shrink: float, rule: str) -> _Suspicion | None:
    """Whether a service has lost more of its instances than it may."""
    left = len(had.instances) - len(missing(had.instances, incoming.services.get(had.key)))
    if left >= len(had.instances) * (1 - shrink):
        return None
    return _Suspicion(rule, f"only {left} of its {len(had.instances)} instances were left after an interruption", now)


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
    return Guarded(incoming, overlay(incoming, _extra(holds), touched, before.incoming, before.admitted), holds)


def _extra(holds: Mapping[tuple[ServiceKey, str], Hold]) -> list[tuple[ServiceKey, Instance]]:
    return [(hold.key, hold.instance) for hold in holds.values()]
