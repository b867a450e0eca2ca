"""How often Consul is asked: the configured reads per minute, and who waits when they run out."""

from __future__ import annotations

import asyncio
import time

from isthmus.registry.adapter import ReadStats
from isthmus.registry.consul.query import Urgency
from isthmus.registry.cursor import full_bucket

AT_ONCE = 0.25
"""Share of a minute's reads that may be made at once. The others come back evenly over the minute."""


RESERVED = {Urgency.HINT: 0.0, Urgency.NAMED: 0.05, Urgency.PROBED: 0.5, Urgency.SWEPT: 0.5}
"""Share of what may be read at once that is left to those that are more urgent."""


class ReadBudget:
    """The reads that one adapter has left, for all its iterations and audits together.

    No minute sees more than there are, save for blocking queries: each counts when it returns, and many may return at once, which
    those that come after make up for.
    """

    def __init__(self, reads_per_minute: int, stats: ReadStats) -> None:
        self._stats = stats
        self._bucket = full_bucket(reads_per_minute * AT_ONCE, reads_per_minute * (1 - AT_ONCE) / 60, time.monotonic())
        self._turns = {urgency: asyncio.Lock() for urgency in Urgency}
        self._short: set[Urgency] = set()

    def spend(self) -> None:
        """Count one read, whether or not there was one left."""
        self._bucket, _ = self._bucket.take(time.monotonic())

    def delay(self, urgency: Urgency) -> float:
        """Seconds until there is a read left for this urgency, if nobody spends any."""
        wait = self._bucket.wait(time.monotonic(), 1 + RESERVED[urgency] * self._bucket.burst)
        if not wait:
            self._short.discard(urgency)
        elif urgency not in self._short:
            self._short.add(urgency)
            self._stats.delayed()
        return wait

    async def ready(self, urgency: Urgency) -> None:
        """Wait until there is a read left for this urgency; it is not counted yet."""
        async with self._turns[urgency]:  # in the order of asking
            while wait := self.delay(urgency):  # noqa: ASYNC110 - time alone brings reads back
                await asyncio.sleep(wait)
