"""The Eureka adapter: see README.md beside this file for what is asked when, and why."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncGenerator

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.eureka.config import EurekaConfig
from isthmus.registry.eureka.known import Key
from isthmus.registry.eureka.reading import Reading
from isthmus.registry.model import Origin, Snapshot


class EurekaAdapter:
    """One Eureka, with all its servers, as an origin.

    The servers are tried in random order. The first that answers is kept until it fails, for their listings differ in detail.
    """

    def __init__(self, origin: Origin, config: EurekaConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._config = config
        self._stats = stats
        self._servers = deque(random.sample(config.addresses, len(config.addresses)))
        self._expected: frozenset[Key] = frozenset()
        self._reading: Reading | None = None

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything Eureka knows, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: no server could be listed, or the one that was polled failed or began anew.

        """
        reading = Reading(self.origin, self._config, self._stats, self._servers, self._expected)
        try:
            yield await reading.begin()
            self._reading = reading
            while True:
                yield await reading.change()
        except AdapterError:
            self._servers.rotate(-1)
            raise
        finally:
            self._reading = None
            self._expected = reading.keys
            await reading.close()

    async def listing(self) -> Snapshot:
        """Everything Eureka lists, read anew, with what the feed says over it.

        Changes come to the feed half a minute before the servers' own listings, and missed heartbeats never do: without them
        each audit would find differences that are none.

        Raises:
            AdapterError: no server could be listed.

        """
        reading = Reading(self.origin, self._config, self._stats, self._servers.copy(), frozenset())
        try:
            # Polling now, so that what is watched is not behind only because it is not time yet.
            return await reading.once(self._reading.hurry() if self._reading else None)
        finally:
            await reading.close()
