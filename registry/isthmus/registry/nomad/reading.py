"""One iteration of the adapter: everything is listed once, and events tell what changes (README.md).

Beside the events one blocking query proves that the agent is alive, which the stream does only each 30 seconds; polls ask for
check results; and once a second what time alone changes is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.cursor import full_bucket, step
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.nomad.answers import ServiceName
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import POLLS, NomadConfig
from isthmus.registry.nomad.events import Events
from isthmus.registry.nomad.known import Known
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.parse import Rules
from isthmus.registry.nomad.polls import Polls
from isthmus.registry.nomad.queries import Queries
from isthmus.registry.nomad.reads import Reads

FIRST_CHECKS = 5.0
"""Seconds that the first snapshot waits for the clients' answers about checks; without one the deployment's verdict counts."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at allocations that are on their way out, and at what time alone changes."""
BURST, RATE = 100.0, 10.0
"""Turns of the query on the namespaces, at once and per second, when they change all the time."""


class Reading:
    """What one Nomad holds, kept current by background tasks from `begin` to `close`."""

    def __init__(self, origin: Origin, config: NomadConfig, api: NomadApi, stats: ReadStats, memory: Memory) -> None:
        self._config = config
        self._api = api
        self._stats = stats
        rules = Rules(config.default_protocol, config.default_port, conventions=config.conventions)
        self._known = Known(origin, rules, config.drain_limit, memory)
        self._clock = asyncio.get_running_loop().time
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._stream: asyncio.Task[None] | None = None
        self._look_sooner = asyncio.Event()
        self._reads = Reads(config, api, self._known, stats)
        self._polls = Polls(config, api, self._known, self._tell)
        self._events = Events(
            config, api, self._known, told=self._hear, unclear=self._read_service, began=self._polls.hurry
        )

    async def begin(self) -> Snapshot:
        """Read everything, and follow it from there."""
        subscribed = await self._subscribe()
        services, namespaces = await self._reads.everything()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CHECKS):
                await self._polls.first_round()
        self._events.listed()
        if not subscribed:
            queries = Queries(self._config, self._api, self._known, self._reads, self._tell)
            self._spawn(queries.follow_services(services))
            self._spawn(queries.follow_allocations())
            self._spawn(queries.follow_nodes())
        self._spawn(self._follow_namespaces(namespaces))
        self._spawn(self._look_again())
        for _ in range(POLLS):
            self._spawn(self._polls.run())
        return msgspec.structs.replace(self._known.take(self._clock()), changed=None)

    async def once(self) -> Snapshot:
        """Read everything, and follow nothing. Of checks what is remembered counts."""
        await self._reads.everything()
        return msgspec.structs.replace(self._known.take(self._clock()), changed=None)

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.has_news(self._clock()):
            await self._next_news()
        return self._known.take(self._clock())

    async def close(self) -> None:
        """End every task and connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()

    async def _next_news(self) -> None:
        self._news.clear()
        if self._failure is None:
            await self._news.wait()
        if self._failure is not None:
            raise self._failure

    def _hear(self) -> None:
        self._stats.wake_up()
        self._tell()

    def _tell(self) -> None:
        self._polls.choose()
        self._news.set()
        if self._known.misses:
            self._look_sooner.set()

    def _read_service(self, name: ServiceName) -> None:
        self._spawn(self._reads.service(name))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
        self._news.set()

    async def _subscribe(self) -> bool:
        """Follow the events, in the place of the stream before; False where there is none for us."""
        subscription = await self._events.subscribe()
        if subscription is None:
            return False
        before, self._stream = self._stream, self._spawn(self._events.follow(subscription))
        if before is not None:
            before.cancel()
        return True

    async def _follow_namespaces(self, index: int) -> None:
        """Prove that the agent is alive; and since a stream shows the namespaces of its beginning, begin it anew for others."""
        pace = full_bucket(BURST, RATE, self._clock())
        while True:
            answer = await self._api.namespaces(index, self._config.heartbeat)
            after = step(index, answer.index)
            if after.went_back:
                raise AdapterError(
                    f"nomad at {self._config.address}: the index of the namespaces went back from {index} to "
                    f"{answer.index}: a snapshot was restored, or the servers began anew; everything is listed again"
                )
            if answer.current:
                self._stats.alive()
            if self._known.heard_namespaces(answer.value) and self._config.namespace == "*":
                if self._stream is not None:
                    await self._subscribe()
                await self._reads.services()
                await self._reads.allocations()
            index = after.index
            self._tell()
            pace, wait = pace.take(self._clock())
            await asyncio.sleep(wait)

    async def _look_again(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._look_sooner.wait()
            self._look_sooner.clear()
            await self._reads.missing()
            # No event tells the end of an allocation whose job was purged.
            for id_ in self._known.leaving():
                await self._reads.allocation(id_)
            self._known.expire(self._clock())
            self._tell()
