"""One iteration of the adapter: which service is read when.

Two hints are always asked for, by blocking queries: the list of services, and the checks that do not pass. As many services as
the connections allow are *watched*: each has a blocking query of its own, and needs no hint. The others are read when a hint
names them. The list of services may change without naming anyone (an address, a weight, one instance more or less); when
no service that is known to have changed explains it, all that are not watched are *swept*. A service that changed becomes
watched, in the place of one that has been quiet. So the cost follows what changes, not what exists.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine, Iterable

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.consul.answers import Check, Listing, changed_checks
from isthmus.registry.consul.api import Answer, ConsulApi, RefusedError
from isthmus.registry.consul.config import AUDITORS, READERS, ConsulConfig
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.parse import Rules
from isthmus.registry.cursor import Bucket, full_bucket, step
from isthmus.registry.model import Origin, Snapshot

LONG_WAIT = 600.0
"""Seconds: the longest wait that Consul grants, and how often a service that is not watched is read regardless."""

SETTLE = 0.05
"""Seconds that watched and named services have to explain a change of the list before the others are swept."""

AFTERTHOUGHT = 10.0
"""Seconds to the sweep after a change that was explained, when another one may hide behind it."""

QUIET = 5.0
"""Seconds without a change after which a watched service gives its place to one that changed."""

SWEEP_BURST, SWEEP_RATE = 4000.0, 200.0
"""Reads by sweeps, at once and per second."""

LIST_BURST, LIST_RATE = 100.0, 10.0
TROUBLES_BURST, TROUBLES_RATE = 100.0, 10.0
SERVICE_BURST, SERVICE_RATE = 100.0, 10.0
"""Turns of each loop, at once and per second, when what it watches changes all the time."""

RETRIES = (0.2, 1.0)
"""Seconds before each further attempt to read one service. The hints are not retried: they prove that Consul is alive."""

NAMED, SWEPT = 0, 1
"""How urgent a read is."""


class Reading:
    """What one Consul holds, kept current by background tasks from `begin` to `close`."""

    def __init__(self, origin: Origin, config: ConsulConfig, api: ConsulApi, stats: ReadStats) -> None:
        self._config = config
        self._api = api
        self._stats = stats
        self._known = Known(origin, Rules(config.default_protocol, config.default_port, config.namespace or "default"))
        self._clock = asyncio.get_running_loop().time
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._begun = False
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._queued: dict[str, int] = {}
        self._being_read: set[str] = set()
        self._sweep_at = self._clock() + LONG_WAIT
        self._sweep_sooner = asyncio.Event()

    async def begin(self) -> Snapshot:
        """Read everything and follow it. The hints are asked for first, so that what changes meanwhile wakes them."""
        troubles = await self._api.troubles()
        names = await self._list(READERS)
        self._prove_life(names.current)
        self._begun = True
        self._watch_more()
        self._spawn(self._follow_list(step(0, names.index).index))
        self._spawn(self._follow_troubles(step(0, troubles.index).index, troubles.value))
        self._spawn(self._sweep())
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def audit(self) -> Snapshot:
        """Read everything once, on few connections: an iteration has the others."""
        await self._list(AUDITORS)
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def _list(self, readers: int) -> Answer[dict[str, frozenset[str]]]:
        names = await self._api.names()
        self._known.heard_list(names.value, names.index, names.doubt)
        for _ in range(readers):
            self._spawn(self._read_queued())
        self._want(self._known.names, NAMED)
        while not self._known.complete:
            await self._next_news()
        return names

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.news:
            await self._next_news()
        return self._known.take()

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

    def _prove_life(self, current: bool) -> None:
        if current:
            self._stats.alive()

    # The hints.

    async def _follow_list(self, index: int) -> None:
        pace = full_bucket(LIST_BURST, LIST_RATE, self._clock())
        while True:
            answer = await self._api.names(index, self._config.heartbeat)
            after = step(index, answer.index)
            if after.went_back:
                raise AdapterError(
                    f"consul at {self._config.address}: the index of the service list went back from {index} to "
                    f"{answer.index}: a snapshot was restored, or the servers began anew; everything is listed again"
                )
            self._prove_life(answer.current)
            change = self._known.heard_list(answer.value, answer.index, answer.doubt)
            for name in change.gone & self._watchers.keys():
                self._unwatch(name)
            self._want(change.touched, NAMED)
            self._watch_more()
            if after.moved and len(self._watchers) < len(self._known.names):
                named = bool(change.gone or change.touched)
                asyncio.get_running_loop().call_later(SETTLE, self._explain, index, answer.index, named)
            index = after.index
            self._news.set()
            pace = await self._pause(pace)

    async def _follow_troubles(self, index: int, before: tuple[Check, ...]) -> None:
        pace = full_bucket(TROUBLES_BURST, TROUBLES_RATE, self._clock())
        while True:
            answer = await self._api.troubles(index, LONG_WAIT)
            services, nodes = changed_checks(before, answer.value)
            self._want(services | self._known.on_nodes(nodes), NAMED)
            before = answer.value
            index = step(index, answer.index).index
            pace = await self._pause(pace)

    def _explain(self, before: int, index: int, named: bool) -> None:
        """Decide when to sweep after the list moved."""
        last, all_of_it = self._known.explained(before, index)
        if not all_of_it:
            self._sweep_in(AFTERTHOUGHT if last or named else 0)

    # Single services.

    def _want(self, names: Iterable[str], urgency: int) -> None:
        """Have these services read, unless their own blocking queries will bring what changed."""
        for name in names:
            if name not in self._watchers and self._queued.get(name, SWEPT + 1) > urgency:
                self._queued[name] = urgency
                self._queue.put_nowait((urgency, next(self._order), name))

    async def _read_queued(self) -> None:
        while True:
            urgency, _, name = await self._queue.get()
            if self._queued.get(name) != urgency:
                continue  # it was queued again, more urgently, and read since
            if name in self._being_read:
                # What is under way may be from before the change that this read is for.
                await asyncio.sleep(SETTLE)
                self._queue.put_nowait((urgency, next(self._order), name))
                continue
            del self._queued[name]
            if name in self._watchers or name not in self._known.names:
                continue
            self._being_read.add(name)
            try:
                answer = await self._ask(name, 0, 0)
            finally:
                self._being_read.discard(name)
            if name not in self._watchers:
                self._heard(name, answer)

    async def _watch(self, name: str) -> None:
        index = self._known.index(name)
        pace = full_bucket(SERVICE_BURST, SERVICE_RATE, self._clock())
        while True:
            answer = await self._ask(name, index, LONG_WAIT)
            after = step(index, answer.index)
            if not after.went_back:  # else a server answered that is behind: what it says is old, so ask again
                self._heard(name, answer)
            index = after.index
            pace = await self._pause(pace)

    async def _ask(self, name: str, index: int, wait: float) -> Answer[Listing]:
        for delay in RETRIES:
            try:
                return await self._api.instances(name, index, wait)
            except RefusedError:
                raise
            except AdapterError:
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - so that many do not retry in step
        return await self._api.instances(name, index, wait)

    def _heard(self, name: str, answer: Answer[Listing]) -> None:
        index = step(0, answer.index).index
        now = self._clock() if self._begun else float("-inf")  # what the first listing finds did not just change
        if self._known.heard_service(name, answer.value, index, answer.doubt, now) and self._begun:
            self._watch_instead(name)
        self._news.set()

    # Who is watched.

    def _watch_more(self) -> None:
        """Give free connections to the services that changed last."""
        free = self._config.watched - len(self._watchers)
        if free > 0:
            for name in self._known.by_liveliness(self._known.names.keys() - self._watchers.keys())[:free]:
                self._watchers[name] = self._spawn(self._watch(name))

    def _watch_instead(self, name: str) -> None:
        """Watch a service that changed, in the place of the one that has been quiet longest, if that is long enough."""
        if name in self._watchers:
            return
        if len(self._watchers) >= self._config.watched:
            quietest = min(self._watchers, key=self._known.changed_at, default=None)
            if quietest is None or self._clock() - self._known.changed_at(quietest) < QUIET:
                return
            self._unwatch(quietest)
            self._want([quietest], SWEPT)  # its query may have been just about to tell something
        self._watchers[name] = self._spawn(self._watch(name))

    def _unwatch(self, name: str) -> None:
        self._watchers.pop(name).cancel()

    async def _sweep(self) -> None:
        budget = full_bucket(SWEEP_BURST, SWEEP_RATE, self._clock())
        while True:
            try:
                async with asyncio.timeout_at(self._sweep_at):
                    await self._sweep_sooner.wait()
                self._sweep_sooner.clear()
                continue
            except TimeoutError:
                pass
            cost = len(self._known.names) - len(self._watchers)
            budget, wait = budget.take(self._clock(), max(1, cost))
            await asyncio.sleep(wait)
            self._sweep_at = self._clock() + LONG_WAIT
            # Who is not watched now: one that was until a moment ago may have changed since it was read.
            self._want(self._known.by_liveliness(self._known.names.keys() - self._watchers.keys()), SWEPT)

    def _sweep_in(self, seconds: float) -> None:
        at = self._clock() + seconds
        if at < self._sweep_at:
            self._sweep_at = at
            self._sweep_sooner.set()

    async def _pause(self, pace: Bucket) -> Bucket:
        pace, wait = pace.take(self._clock())
        if wait:
            await asyncio.sleep(wait)
        return pace
