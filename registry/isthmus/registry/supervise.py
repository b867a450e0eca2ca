"""Run one adapter for ever: keep what it said last, report it stale, wait, and list again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from isthmus.registry.adapter import Adapter, AdapterError
from isthmus.registry.model import ServiceKey, Snapshot
from isthmus.registry.origin import OriginStatus

log = structlog.get_logger()

FIRST_BACKOFF = 0.25
LONGEST_BACKOFF = 15.0

NAMED_IN_DOUBT = 5
"""Services in doubt that a status names."""


async def supervise(
    adapter: Adapter,
    status: OriginStatus,
    publish: Callable[[Snapshot, bool], Awaitable[None]],
    failed: Callable[[], None],
) -> None:
    """Iterate the adapter until cancelled; each snapshot goes to `publish(snapshot, relisted)`, each failure calls `failed()`.

    The origin is synced when `publish` is done with a snapshot. `relisted` marks the first of each iteration: what is missing
    from it was not seen to go. After an AdapterError the next attempt waits 0.25 s, doubled each time up to 15 s, with jitter, so
    that a fleet does not come back in step. Anything else that an adapter raises is a programming error and propagates.
    """
    name = adapter.origin.name
    failures = 0
    while True:
        relisted = True
        try:
            async for snapshot in adapter.snapshots():
                await publish(snapshot, relisted)
                if status.stale_since is not None and status.synced:
                    log.info("registry.recovered", origin=name, stale_for_s=round(time.time() - status.stale_since, 1))
                elif not status.synced:
                    log.info("registry.synced", origin=name, services=len(snapshot.services), cursor=snapshot.cursor)
                status.recovered()
                _describe(status, snapshot)
                relisted = False
                failures = 0
            raise AdapterError(f"{name}: the adapter ended its listing")  # noqa: TRY301 - the same road as any failure
        except AdapterError as e:
            status.went_stale(str(e))
            failed()
            failures += 1
            wait = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1)) * random.uniform(0.5, 1)  # noqa: S311
            if failures == 1:
                log.warning("registry.stale", origin=name, error=str(e), synced=status.synced)
            else:
                log.debug(
                    "registry.still_stale", origin=name, error=str(e), failures=failures, retry_in_s=round(wait, 2)
                )
        await asyncio.sleep(wait)


def _describe(status: OriginStatus, snapshot: Snapshot) -> None:
    if snapshot.quarantined != status.quarantined:
        for q in set(snapshot.quarantined) - set(status.quarantined):
            log.warning("registry.quarantined", origin=q.origin, where=q.where, reason=q.reason)
        for q in set(status.quarantined) - set(snapshot.quarantined):
            log.info("registry.quarantine_ended", origin=q.origin, where=q.where)
    doubt = snapshot.doubt or _in_words(snapshot.doubts)
    if doubt and doubt != status.doubt:
        log.warning("registry.doubtful", origin=status.origin.name, reason=doubt, services=len(snapshot.doubts))
    elif status.doubt and not doubt:
        log.info("registry.doubt_ended", origin=status.origin.name)
    if snapshot.unlisted and not status.unlisted:
        log.info("registry.not_all_listed", origin=status.origin.name, reason=snapshot.unlisted)
    status.cursor = snapshot.cursor
    status.doubt = doubt
    status.doubted = len(snapshot.doubts)
    status.unlisted = snapshot.unlisted
    status.quarantined = snapshot.quarantined


def _in_words(doubts: Mapping[ServiceKey, str]) -> str:
    """Which services are in doubt and why, in one line: the first few by name."""
    if not doubts:
        return ""
    names = ", ".join(str(key) for key in sorted(doubts)[:NAMED_IN_DOUBT])
    more = f" and {len(doubts) - NAMED_IN_DOUBT} more" if len(doubts) > NAMED_IN_DOUBT else ""
    return f"{names}{more}: {'; '.join(sorted(set(doubts.values())))}"
