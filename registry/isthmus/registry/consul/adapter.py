"""The Consul adapter: see README.md beside this file for what is asked when, and why."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from isthmus.registry.adapter import ReadStats
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.budget import ReadBudget
from isthmus.registry.consul.config import AUDITORS, ConsulConfig
from isthmus.registry.consul.parse import Rules
from isthmus.registry.consul.reading import Reading
from isthmus.registry.model import Origin, Snapshot


class ConsulAdapter:
    """One Consul datacenter, or what one imports from a peer, in one namespace and partition, as an origin."""

    def __init__(self, origin: Origin, config: ConsulConfig, stats: ReadStats) -> None:
        self.origin = origin
        self._config = config
        self._stats = stats
        self._budget = ReadBudget(config.max_reads_per_minute, stats)
        self._formerly: frozenset[str] = frozenset()

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything Consul knows, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: Consul, or one service of it after three attempts, could not be read, or its index went back.

        """
        async with self._reading(self._formerly, self._config.max_connections - AUDITORS) as reading:
            try:
                yield await reading.begin()
                while True:
                    yield await reading.change()
            finally:
                # What ACLs hide from the next listing can only be asked for by name.
                self._formerly = reading.names

    async def listing(self) -> Snapshot:
        """One complete listing, beside any iteration and on connections of its own.

        Raises:
            AdapterError: as for `snapshots`.

        """
        async with self._reading(frozenset(), AUDITORS) as reading:
            return await reading.audit()

    @contextlib.asynccontextmanager
    async def _reading(self, formerly: frozenset[str], connections: int) -> AsyncGenerator[Reading]:
        api = ConsulApi(self._config, self._budget, self._stats, connections)
        try:
            reading = Reading(self.origin, self._config, api, await self._rules(api), self._stats, formerly=formerly)
            try:
                yield reading
            finally:
                await reading.close()
        finally:
            await api.close()

    async def _rules(self, api: ConsulApi) -> Rules:
        config = self._config
        remote = bool(config.peer)
        if config.datacenter:
            remote = await api.own_datacenter() not in ("", config.datacenter)
        namespace = config.namespace or "default"
        return Rules(config.default_protocol, config.default_port, namespace, remote, config.conventions)
