"""Blocking queries in the place of the event stream, for a token that may not follow it or a Nomad that has none.

They tell that something changed and not what, so each turn reads a table again, and turns are paced by what they cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from isthmus.registry.adapter import AdapterError
from isthmus.registry.cursor import Bucket, full_bucket, step
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import NomadConfig
from isthmus.registry.nomad.http import ForbiddenError
from isthmus.registry.nomad.known import Known
from isthmus.registry.nomad.reads import Reads, together

LONG_WAIT = 300.0
"""Seconds that a query may wait: something else proves that the agent is alive."""
BURST, RATE = 400.0, 100.0
"""Reads at once and per second."""
TABLE = 10
"""What it costs to read all allocations or nodes, in reads of one service."""


class Queries:
    """One query for each table. `told` is called when something may have changed."""

    def __init__(
        self, config: NomadConfig, api: NomadApi, known: Known, reads: Reads, told: Callable[[], None]
    ) -> None:
        self._nomad = f"nomad at {config.address}"
        self._api = api
        self._known = known
        self._reads = reads
        self._told = told
        self._clock = asyncio.get_running_loop().time

    async def follow_services(self, index: int) -> None:
        """Read all services again whenever one of them has changed; raises AdapterError when the index goes back."""
        pace = self._new_pace()
        while True:
            answer = await self._api.services(index, LONG_WAIT)
            after = step(index, answer.index)
            if after.went_back:
                raise AdapterError(
                    f"{self._nomad}: the index of the services went back from {index} to {answer.index}: "
                    "a snapshot was restored, or the servers began anew; everything is listed again"
                )
            if after.moved:
                names = self._known.heard_list(answer.value, answer.index, self._clock())
                await self._reads.each(names)
                self._told()
                await together(self._reads.job(key) for key in self._known.shown.empty_jobs())
                self._told()
                pace = await self._pause(pace, len(names))
            index = after.index

    async def follow_allocations(self) -> None:
        """Read all allocations again whenever one of them has changed; returns when the token may not."""
        index, pace = 0, self._new_pace()
        while True:
            try:
                answer = await self._api.allocations_after(index, LONG_WAIT)
            except ForbiddenError:
                return  # the listing has remarked it
            self._known.heard_allocations(answer.value, answer.index)
            index = step(index, answer.index).index
            self._told()
            pace = await self._pause(pace, TABLE)

    async def follow_nodes(self) -> None:
        """Read those nodes again that have changed and matter; returns when the token may not."""
        index, pace = 0, self._new_pace()
        while True:
            try:
                answer = await self._api.nodes_after(index, LONG_WAIT)
            except ForbiddenError:
                return
            for stub in answer.value:
                node = self._known.facts.nodes.get(stub.id)
                if node is not None and node.modify_index < stub.modify_index:
                    await self._reads.node(stub.id)
            index = step(index, answer.index).index
            self._told()
            pace = await self._pause(pace, TABLE)

    def _new_pace(self) -> Bucket:
        return full_bucket(BURST, RATE, self._clock())

    async def _pause(self, pace: Bucket, cost: float) -> Bucket:
        pace, wait = pace.take(self._clock(), max(1.0, cost))
        if wait:
            await asyncio.sleep(wait)
        return pace
