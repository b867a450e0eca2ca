"""How the registries are doing, for `isthmus registries`, `isthmus holds` and the debug pages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from isthmus.bridge.answers import Held, Leaving, RegistryState
from isthmus.registry.hub import Hub
from isthmus.registry.source import Source


def registry_states(hub: Hub, max_connections: Mapping[str, int]) -> list[RegistryState]:
    """Every origin, in order of precedence. `max_connections` is by origin, for those that have such a limit."""
    removed = Counter(r.instance.origin for rs in hub.removed.values() for r in rs)
    return [_state(name, source, max_connections.get(name), removed[name]) for name, source in hub.sources.items()]


def _state(name: str, source: Source, max_connections: int | None, removed: int) -> RegistryState:
    status = source.status
    services = source.shown.services if source.shown else {}
    return RegistryState(
        name=name,
        kind=status.origin.kind,
        address=status.address,
        synced=status.synced,
        cursor=status.cursor,
        last_success=status.last_success,
        stale_for_s=None if status.stale_since is None else round(time.time() - status.stale_since, 1),
        error=status.error,
        doubt=status.doubt,
        unlisted=status.unlisted,
        reads_last_minute=status.reads_last_minute,
        max_connections=max_connections,
        services=len(services),
        instances=sum(len(s.instances) for s in services.values()),
        quarantined=len(status.quarantined),
        held=len(source.holds),
        leaving=len(source.leaving),
        removed=removed,
        feed=status.feed,
        audits=status.audits,
        drift=status.drift,
        max_reads_per_minute=status.max_reads_per_minute,
        read_waits=status.delays,
    )


def held(hub: Hub) -> list[Held]:
    """Every instance that is held, by service."""
    now = time.monotonic()
    return [
        Held(
            service=str(h.key),
            instance=h.instance.id,
            origin=h.instance.origin,
            address=h.instance.address,
            rule=h.rule,
            reason=h.reason,
            held_for_s=round(now - h.since, 1),
            ends_in_s=None if h.until is None else round(max(0.0, h.until - now), 1),
        )
        for h in sorted(hub.holds, key=lambda h: (h.key, h.instance.id))
    ]


def leaving(hub: Hub) -> list[Leaving]:
    """Every instance that is on its way out, by service."""
    now = time.monotonic()
    return [
        Leaving(str(x.key), x.instance.id, x.instance.origin, round(max(0.0, x.until - now), 1))
        for x in sorted(
            (x for source in hub.sources.values() for x in source.leaving), key=lambda x: (x.key, x.instance.id)
        )
    ]
