"""An instance that leaves its registry finishes what it has: it is DRAINING for a grace before it is gone.

A registry takes an instance out in the moment in which it begins to stop, often while it still serves (Nomad's shutdown_delay, a
Consul deregistration in a stop script). Envoy gives a draining endpoint nothing new and keeps its connections; an endpoint that
is missing loses them. An instance that was not serving goes at once, and one that comes back, under its id or at its place, is
simply there again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Health, Instance, ServiceKey, Snapshot
from isthmus.registry.overlay import missing, overlay, returned

_SERVING = frozenset({Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN, Health.DRAINING})


class DrainRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`grace` is in seconds; 0 lets instances go at once."""

    grace: float = 10.0


class Leaving(msgspec.Struct, frozen=True):
    """One instance on its way out, until a monotonic second."""

    key: ServiceKey
    instance: Instance
    until: float


class Drained(msgspec.Struct, frozen=True):
    """One origin behind its drain: what came in last, what is shown, and what is leaving."""

    incoming: Snapshot
    shown: Snapshot
    leaving: Mapping[tuple[ServiceKey, str], Leaving] = {}

    @property
    def due(self) -> float | None:
        """The monotonic second at which the next instance is gone."""
        return min((leaving.until for leaving in self.leaving.values()), default=None)


def drain(before: Drained | None, incoming: Snapshot, now: float, rules: DrainRules) -> Drained:
    """Show a snapshot together with the instances that have just left it. Hints are relative to what was shown before."""
    if before is None or rules.grace <= 0:
        return Drained(incoming, incoming)
    back = returned(_extra(before.leaving), before.incoming, incoming)
    leaving = {at: x for at, x in before.leaving.items() if x.until > now and at not in back}
    was = before.incoming.services
    for key in was if incoming.changed is None else incoming.changed & was.keys():
        service = incoming.services.get(key)
        if service is was[key]:
            continue
        for instance in missing(was[key].instances, service):
            if instance.health in _SERVING:
                draining = msgspec.structs.replace(instance, health=Health.DRAINING)
                leaving[key, instance.id] = Leaving(key, draining, now + rules.grace)
    return _show(before, incoming, leaving)


def leave(before: Drained, now: float) -> Drained:
    """Let go of the instances whose grace is over."""
    leaving = {at: x for at, x in before.leaving.items() if x.until > now}
    if len(leaving) == len(before.leaving):
        return before
    return _show(before, msgspec.structs.replace(before.incoming, changed=frozenset()), leaving)


def _show(before: Drained, incoming: Snapshot, leaving: Mapping[tuple[ServiceKey, str], Leaving]) -> Drained:
    touched = {key for key, _ in leaving.keys() ^ before.leaving.keys()}
    # A key that changed by itself and still has instances leaving is in the snapshot's own hint.
    return Drained(incoming, overlay(incoming, _extra(leaving), touched, before.incoming, before.shown), leaving)


def _extra(leaving: Mapping[tuple[ServiceKey, str], Leaving]) -> list[tuple[ServiceKey, Instance]]:
    return [(x.key, x.instance) for x in leaving.values()]
