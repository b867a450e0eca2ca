"""The Nomad adapter: see README.md beside this file for what is asked when, and why."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from isthmus.registry.adapter import ReadStats
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import NomadConfig
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.reading import Reading


class NomadAdapter:
    """The native services of one Nomad region, in one namespace or in all, as an origin."""

    def __init__(self, origin: Origin, config: NomadConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._config = config
        self._stats = stats
        self._memory = Memory()

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything Nomad knows, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: Nomad, or one service of it after three attempts, could not be read, its events may have been missed, or
                its index went back.

        """
        reading = self._reading()
        try:
            yield await reading.begin()
            while True:
                yield await reading.change()
        finally:
            await reading.close()

    async def listing(self) -> Snapshot:
        """Everything Nomad knows, read anew.

        Raises:
            AdapterError: Nomad, or one service of it after three attempts, could not be read.

        """
        reading = self._reading()
        try:
            return await reading.once()
        finally:
            await reading.close()

    def _reading(self) -> Reading:
        return Reading(self.origin, self._config, NomadApi(self._config, self._stats), self._stats, self._memory)
