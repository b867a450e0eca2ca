"""Following what is imported from a peer.

None of Consul's lists knows a peer: `catalog/services`, `catalog/nodes` and `health/state/any` take `peer=`, and answer about
their own cluster (1.21.0). What is imported stands in the peering itself, which is read every `heartbeat`, and tells whether the
peer can be heard. Services are then followed as any others: those that changed last by blocking queries, the others by sweeps.
"""

from __future__ import annotations

import asyncio

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.consul.known import Known, ListChange
from isthmus.registry.consul.query import Urgency
from isthmus.registry.consul.services import LONG_WAIT, Services, Spawn

ACTIVE = "ACTIVE"
"""The state of a peering over which imported services are kept current."""

SWEEP = 60.0
"""Seconds between two looks at the services that have no blocking query of their own."""


class PeerHints:
    """The hints of one iteration over a peer's services: as `hints.Hints`."""

    def __init__(
        self, config: ConsulConfig, api: ConsulApi, stats: ReadStats, known: Known, services: Services
    ) -> None:
        self._config = config
        self._api = api
        self._stats = stats
        self._known = known
        self._services = services

    async def begin(self) -> None:
        """Ask before any service is read."""
        await self.hear_names()

    async def hear_names(self) -> ListChange:
        """Ask what is imported.

        Raises:
            AdapterError: the peer cannot be heard, or there is no such peering.

        """
        answer = await self._api.imported()
        if answer.value.state != ACTIVE:
            raise AdapterError(
                f"consul at {self._config.address}: the peering {self._config.peer} is {answer.value.state or 'unknown'}, "
                f"expected {ACTIVE}: what it imports may be out of date"
            )
        if answer.current:
            self._stats.alive()
        return self._known.heard_list(answer.value.names, answer.index, answer.filtered)

    def follow(self, spawn: Spawn) -> None:
        """Go on asking, in the background."""
        spawn(self._follow_names())
        spawn(self._sweep())

    async def _follow_names(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat)
            change = await self.hear_names()
            self._services.unwatch(change.gone | change.missing)
            self._services.want(change.touched | change.missing)
            self._services.watch_more()
            self._services.tell()

    async def _sweep(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(SWEEP)
            rounds += 1
            urgency = Urgency.PROBED if rounds % (LONG_WAIT // SWEEP) else Urgency.SWEPT
            await self._services.sweep(urgency)
