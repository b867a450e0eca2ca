"""Which services have a blocking query of their own, and the reading of the others.

As many services as the connections allow are *watched*: each has a blocking query of its own, and needs no hint. The others are
read when somebody wants them read. A service that changed becomes watched, in the place of one that has been quiet.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from isthmus.registry.adapter import AdapterError
from isthmus.registry.consul.answers import Listing
from isthmus.registry.consul.api import Answer, ConsulApi
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.query import Urgency
from isthmus.registry.consul.trust import RefusedError
from isthmus.registry.cursor import full_bucket, step

LONG_WAIT = 600.0
"""Seconds: the longest wait that Consul grants."""

AGAIN = 0.05
"""Seconds after which a read is repeated that was wanted while one was under way, and between looks whether reads are done."""

QUIET = 5.0
"""Seconds without a change after which a watched service gives its place to one that changed."""

UNHURRIED = 32
"""Services that a sweep reads at a time when nobody waits for it."""

SERVICE_BURST, SERVICE_RATE = 100.0, 10.0
"""Turns of a watch, at once and per second, when its service changes all the time."""

RETRIES = (0.2, 1.0)
"""Seconds before each further attempt to read one service. The hints are not retried: they prove that Consul is alive."""

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Services:
    """The answers about single services, each told to `known` and then announced by `tell`."""

    def __init__(self, api: ConsulApi, known: Known, most_watched: int, spawn: Spawn, tell: Callable[[], None]) -> None:
        self._api = api
        self._known = known
        self._most_watched = most_watched
        self._spawn = spawn
        self.tell = tell
        self._clock = asyncio.get_running_loop().time
        self._begun = False
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._queue: asyncio.PriorityQueue[tuple[Urgency, int, str]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._queued: dict[str, Urgency] = {}
        self._being_read: set[str] = set()

    def start_readers(self, number: int) -> None:
        """Read what is wanted, up to this many services at a time."""
        for _ in range(number):
            self._spawn(self._read_queued())

    def start_watching(self) -> None:
        """From here on, what is heard is a change: everything was read once."""
        self._begun = True
        self.watch_more()

    def want(self, names: Iterable[str], urgency: Urgency = Urgency.NAMED) -> None:
        """Have these services read, unless their own blocking queries will bring what changed."""
        for name in names:
            if name not in self._watchers and (name not in self._queued or self._queued[name] > urgency):
                self._queued[name] = urgency
                self._queue.put_nowait((urgency, next(self._order), name))

    async def read(self, names: Iterable[str], urgency: Urgency = Urgency.NAMED) -> None:
        """Have them read, and wait until they are."""
        names = tuple(names)
        self.want(names, urgency)
        while any(name in self._queued or name in self._being_read for name in names):  # noqa: ASYNC110 - cheaper than events
            await asyncio.sleep(AGAIN)

    async def sweep(self, urgency: Urgency, hurried: Callable[[], bool] = lambda: False) -> None:
        """Read all that are not watched: without haste, so that the better part of the time is left to others, or all at once."""
        # Those of now: one that was watched until a moment ago may have changed since it was read.
        names = self._unwatched
        while names:
            at_once = len(names) if hurried() else UNHURRIED
            await self.read(names[:at_once], urgency)
            del names[:at_once]

    @property
    def _unwatched(self) -> list[str]:
        """What is only read when somebody wants it, the liveliest first."""
        return self._known.by_liveliness((self._known.names.keys() | self._known.missing) - self._watchers.keys())

    @property
    def all_watched(self) -> bool:
        """Whether every service has a blocking query of its own."""
        return len(self._watchers) == len(self._known.names) + len(self._known.missing)

    def watch_more(self) -> None:
        """Give free connections to the services that changed last."""
        free = self._most_watched - len(self._watchers)
        if free > 0:
            # One that is about to be read is watched from that answer on: a query that waits from an older one may miss it.
            others = self._known.names.keys() - self._watchers.keys() - self._queued.keys()
            for name in self._known.by_liveliness(others)[:free]:
                self._watchers[name] = self._spawn(self._watch(name))

    def unwatch(self, names: Iterable[str]) -> None:
        """Give up the blocking queries of those that have one."""
        for name in names:
            if name in self._watchers:
                self._watchers.pop(name).cancel()

    async def _read_queued(self) -> None:
        while True:
            urgency, _, name = await self._queue.get()
            if self._queued.get(name) != urgency:
                continue  # it was queued again, more urgently, and read since
            if urgency > Urgency.NAMED and (wait := self._api.delay(urgency)):
                # So that what a hint names does not find all readers waiting for less urgent ones.
                self._queue.put_nowait((urgency, next(self._order), name))
                await asyncio.sleep(min(wait, AGAIN))
                continue
            if name in self._being_read:
                # What is under way may be from before the change that this read is for.
                await asyncio.sleep(AGAIN)
                self._queue.put_nowait((urgency, next(self._order), name))
                continue
            del self._queued[name]
            if name in self._watchers or not self._known.wanted(name):
                continue
            self._being_read.add(name)
            try:
                answer = await (self._confirm(name) if name in self._known.missing else self._ask(name, urgency))
            finally:
                self._being_read.discard(name)
            if answer is not None and name not in self._watchers:
                self._heard(name, answer)

    async def _watch(self, name: str) -> None:
        index = self._known.index(name)
        pace = full_bucket(SERVICE_BURST, SERVICE_RATE, self._clock())
        while True:
            answer = await _patiently(lambda: self._api.watch(name, index, LONG_WAIT))  # noqa: B023 - awaited at once
            after = step(index, answer.index)
            if not after.went_back:  # else a server answered that is behind: what it says is old, so ask again
                if answer.filtered is None and self._known.is_to_be_confirmed(name, answer.value):
                    answer = await self._confirm(name)
                self._heard(name, answer)
            index = after.index
            pace, wait = pace.take(self._clock())
            await asyncio.sleep(wait)

    async def _ask(self, name: str, urgency: Urgency) -> Answer[Listing] | None:
        # A service at the index that is known is as it is known, by all that Consul does today. Once, checks turned and moved no
        # index (https://github.com/hashicorp/consul/issues/300), a cluster that was restored from a backup counts anew, and
        # rights move none. So what a hint names is read, and so is everything once in LONG_WAIT, and for audits.
        if urgency is Urgency.PROBED and (known := self._known.index(name)):
            if await _patiently(lambda: self._api.is_at(name, known)):
                return None
            urgency = Urgency.NAMED
        return await _patiently(lambda: self._api.instances(name, urgency))

    async def _confirm(self, name: str) -> Answer[Listing]:
        return await _patiently(lambda: self._api.instances_for_certain(name))

    def _heard(self, name: str, answer: Answer[Listing]) -> None:
        index = step(0, answer.index).index
        now = self._clock() if self._begun else float("-inf")  # what the first listing finds did not just change
        new = self._known.heard_service(name, answer.value, index, answer.filtered, now)
        if self._begun:
            if new:
                self._watch_instead(name)
            self.watch_more()
        self.tell()

    def _watch_instead(self, name: str) -> None:
        """Watch a service that changed, in the place of the one that has been quiet longest, if that is long enough."""
        if name in self._watchers or name not in self._known.names:
            return
        if len(self._watchers) >= self._most_watched:
            quietest = min(self._watchers, key=self._known.changed_at, default=None)
            if quietest is None or self._clock() - self._known.changed_at(quietest) < QUIET:
                return
            self.unwatch([quietest])
            self.want([quietest], Urgency.PROBED)  # its query may have been just about to tell something
        self._watchers[name] = self._spawn(self._watch(name))


async def _patiently(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    for delay in RETRIES:
        try:
            return await ask()
        except RefusedError:
            raise
        except AdapterError:
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - so that many do not retry in step
    return await ask()
