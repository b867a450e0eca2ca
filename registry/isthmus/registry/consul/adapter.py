"""The Consul adapter: see README.md beside this file for what is asked when, and why."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from isthmus.registry.adapter import ReadStats
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.consul.reading import Reading
from isthmus.registry.model import Origin, Snapshot


class ConsulAdapter:
    """One Consul datacenter, namespace and partition as an origin."""

    def __init__(self, origin: Origin, config: ConsulConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._config = config
        self._stats = stats
        self._formerly: frozenset[str] = frozenset()

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything Consul knows, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: Consul, or one service of it after three attempts, could not be read, or its index went back.

        """
        reading = self._reading(self._formerly)
        try:
            yield await reading.begin()
            while True:
                yield await reading.change()
        finally:
            # What ACLs hide from the next listing can only be asked for by name.
            self._formerly = reading.names
            await reading.close()

    async def listing(self) -> Snapshot:
        """One complete listing, beside any iteration and on connections of its own.

        Raises:
            AdapterError: as for `snapshots`.

        """
        reading = self._reading(frozenset())
        try:
            return await reading.audit()
        finally:
            await reading.close()

    def _reading(self, formerly: frozenset[str]) -> Reading:
        return Reading(self.origin, self._config, ConsulApi(self._config, self._stats), self._stats, formerly)
