"""One iteration of the adapter: its tasks, and what they have brought so far.

What is read when is decided in services.py (blocking queries of single services) and hints.py or peers.py (everything else).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from isthmus.registry.adapter import ReadStats
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.config import AUDITORS, READERS, ConsulConfig
from isthmus.registry.consul.hints import Hints
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.parse import Rules
from isthmus.registry.consul.peers import PeerHints
from isthmus.registry.consul.query import Urgency
from isthmus.registry.consul.services import Services
from isthmus.registry.model import Origin, Snapshot


class Reading:
    """What one Consul holds, kept current by background tasks from `begin` to `close`.

    `formerly` are the names of services that an earlier reading knew.
    """

    def __init__(
        self,
        origin: Origin,
        config: ConsulConfig,
        api: ConsulApi,
        rules: Rules,
        stats: ReadStats,
        *,
        formerly: frozenset[str],
    ) -> None:
        self._known = Known(origin, rules, formerly)
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._services = Services(api, self._known, config.watched, self._spawn, self._news.set)
        hints = PeerHints if config.peer else Hints
        self._hints = hints(config, api, stats, self._known, self._services)

    async def begin(self) -> Snapshot:
        """Read everything and follow it."""
        await self._hints.begin()
        await self._read_all(READERS, Urgency.NAMED)
        self._services.start_watching(self._known.list_index)
        self._hints.follow(self._spawn)
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def audit(self) -> Snapshot:
        """Read everything once, on few connections: an iteration has the others."""
        await self._hints.hear_names()
        await self._read_all(AUDITORS, Urgency.SWEPT)
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def _read_all(self, readers: int, urgency: Urgency) -> None:
        self._services.start_readers(readers)
        self._services.want(self.names, urgency)
        while not self._known.complete:
            await self._next_news()

    @property
    def names(self) -> frozenset[str]:
        """Of all services that there are, or were before ACLs hid them."""
        return self._known.missing.union(self._known.names)

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.news:
            await self._next_news()
        return self._known.take()

    async def close(self) -> None:
        """End every task."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _next_news(self) -> None:
        self._news.clear()
        if self._failure is None:
            await self._news.wait()
        if self._failure is not None:
            raise self._failure

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self._news.set()
