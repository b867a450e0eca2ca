"""Which services have a blocking query of their own, and the reading of the others.

As many services as the connections allow are *watched*: each has a blocking query of its own, and needs no hint. The others are
read when somebody wants them read. A service that goes on changing becomes watched, in the place of one that has been quiet.

A *sweep* looks for what changed in the others. A node has an index of its own, which its checks do not move; so, where there are
fewer nodes than services, it is the nodes that are asked for theirs, and of those that moved, what is registered on them.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

import msgspec

from isthmus.registry.adapter import AdapterError
from isthmus.registry.consul.answers import Listing
from isthmus.registry.consul.api import Answer, ConsulApi
from isthmus.registry.consul.known import Known, Registered
from isthmus.registry.consul.parse import cannot_be_asked_for
from isthmus.registry.consul.query import Urgency
from isthmus.registry.consul.trust import RefusedError
from isthmus.registry.cursor import full_bucket, step

LONG_WAIT = 600.0
"""Seconds: the longest wait that Consul grants."""

AGAIN = 0.05
"""Seconds after which a read is repeated that was wanted while one was under way, and between looks whether reads are done."""

LIVELY, QUIET = 60.0, 5.0
"""Seconds between two changes of a service, within which it becomes watched; and without a change, after which one gives its
place to it. For that a connection is closed and another opened, which is more work than to read a service that a hint names."""

UNHURRIED = 32
"""Services, or nodes, that a sweep reads at a time when nobody waits for it."""

SERVICE_BURST, SERVICE_RATE = 100.0, 10.0
"""Turns of a watch, at once and per second, when its service changes all the time."""

RETRIES = (0.2, 1.0)
"""Seconds before each further attempt to read one service. The hints are not retried: they prove that Consul is alive."""


class _Node(msgspec.Struct, frozen=True):
    """A node that is to be asked what changed on it."""

    name: str


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
        self._ending: set[asyncio.Task[None]] = set()
        """Those that watched, and whose connections are still to be closed."""
        self._queue: asyncio.PriorityQueue[tuple[Urgency, int, str | _Node]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._queued: dict[str | _Node, Urgency] = {}
        self._being_read: set[str | _Node] = set()
        self.nodes: AbstractSet[str] = frozenset()
        """All there are; none where they are not known."""
        self._nodes_from = 0
        self._node_indexes: dict[str, int] = {}
        self._moved: dict[str, Registered] = {}
        """What is on the nodes that a sweep has found to have moved."""

    def start_readers(self, number: int) -> None:
        """Read what is wanted, up to this many services at a time."""
        for _ in range(number):
            self._spawn(self._read_queued())

    def start_watching(self, index: int) -> None:
        """From here on, what is heard is a change: everything was read once, after the write to Consul with this index."""
        self._begun = True
        self._nodes_from = index
        self.watch_more()

    def want(self, names: Iterable[str | _Node], urgency: Urgency = Urgency.NAMED) -> None:
        """Have these services read, unless their own blocking queries will bring what changed."""
        for name in names:
            if name not in self._watchers and (name not in self._queued or self._queued[name] > urgency):
                self._queued[name] = urgency
                self._queue.put_nowait((urgency, next(self._order), name))

    async def read(self, names: Iterable[str | _Node], urgency: Urgency = Urgency.NAMED) -> None:
        """Have them read, and wait until they are."""
        names = tuple(names)
        self.want(names, urgency)
        while any(name in self._queued or name in self._being_read for name in names):  # noqa: ASYNC110 - cheaper than events
            await asyncio.sleep(AGAIN)

    async def sweep(self, urgency: Urgency, hurried: Callable[[], bool] = lambda: False) -> None:
        """Read all that are not watched: without haste, so that the better part of the time is left to others, or all at once."""
        # Those of now: one that was watched until a moment ago may have changed since it was read.
        names: list[str | _Node] = [*self._unwatched]
        if urgency is Urgency.PROBED and self._can_ask_nodes and len(self.nodes) < len(names):
            names = [n for n in self._unwatched if not self._known.index(n)]
            names += map(_Node, self.nodes)
        while names:
            at_once = len(names) if hurried() else UNHURRIED
            await self.read(names[:at_once], urgency)
            del names[:at_once]
        moved, self._moved = self._moved, {}
        if moved:
            await self.read(self._known.lacking(moved))
        for node in self._node_indexes.keys() - self.nodes:
            del self._node_indexes[node]

    @property
    def _can_ask_nodes(self) -> bool:
        return bool(self.nodes) and not any(map(cannot_be_asked_for, self.nodes))

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
                ended = self._watchers.pop(name)
                ended.cancel()
                self._ending.add(ended)
                ended.add_done_callback(self._ending.discard)

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
            self._being_read.add(name)
            try:
                await (self._ask_node(name.name) if isinstance(name, _Node) else self._read(name, urgency))
            finally:
                self._being_read.discard(name)

    async def _read(self, name: str, urgency: Urgency) -> None:
        if name in self._watchers or not self._known.wanted(name):
            return
        answer = await (self._confirm(name) if name in self._known.missing else self._ask(name, urgency))
        if answer is not None and name not in self._watchers:
            self._heard(name, answer)

    async def _ask_node(self, node: str) -> None:
        """Have those services read that were registered on a node since it was asked last."""
        if await _patiently(lambda: self._api.node_index(node)) <= self._node_indexes.get(node, self._nodes_from):
            return
        answer = await _patiently(lambda: self._api.registered(node))
        self._node_indexes[node] = answer.index
        self._moved[node] = answer.value
        self.want(self._known.behind(answer.value))

    async def _watch(self, name: str) -> None:
        while self._ending:
            await asyncio.wait(self._ending)
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
        changed_before = self._known.changed_at(name)
        new = self._known.heard_service(name, answer.value, index, answer.filtered, now)
        if self._begun:
            if new and now - changed_before < LIVELY:
                self._watch_instead(name)
            self.watch_more()
        self.tell()

    def _watch_instead(self, name: str) -> None:
        """Watch a service that changes, in the place of the one that has been quiet longest, if that is long enough."""
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
