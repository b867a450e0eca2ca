"""The etcd adapter: what is asked when, and why, is told in reading.py and session.py."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncGenerator

from isthmus.registry.adapter import ReadStats
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.reading import Reading
from isthmus.registry.etcd.session import Position, open_session
from isthmus.registry.model import Origin, Snapshot


class EtcdAdapter:
    """Prefixes of one etcd cluster as an origin."""

    def __init__(self, origin: Origin, config: EtcdConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._config = config
        self._stats = stats
        # Not every bridge should begin with the same member.
        self._endpoints = deque(random.sample(config.endpoints, len(config.endpoints)))
        self._detected: dict[str, str] = {}

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything etcd knows, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: no member could be read, or a backup was restored.

        """
        reading = await self._reading(self._endpoints)
        try:
            yield await reading.begin()
            while True:
                yield await reading.change()
        finally:
            await reading.close()

    async def listing(self) -> Snapshot:
        """One complete listing, beside any iteration and on a connection of its own.

        Raises:
            AdapterError: no member could be read.

        """
        reading = await self._reading(self._endpoints.copy())
        try:
            return await reading.once()
        finally:
            await reading.close()

    async def _reading(self, endpoints: deque[str]) -> Reading:
        session = await open_session(self._config, endpoints, self._stats, Position())
        return Reading(self.origin, self._config, endpoints, self._stats, session=session, detected=self._detected)
