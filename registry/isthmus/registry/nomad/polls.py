"""Asking clients how the checks of their allocations are: nothing else tells, neither an event nor an index.

Each allocation has its turn each `check_interval` seconds, sooner while its first results are awaited, and all together no more
often than `check_rate`. A client that does not answer is asked for one of its allocations at a time, and seldom: the others need
not wait for its silence.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable

from isthmus.registry.adapter import AdapterError
from isthmus.registry.cursor import full_bucket
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import POLLS, NomadConfig
from isthmus.registry.nomad.http import ForbiddenError, NotThereError
from isthmus.registry.nomad.known import Known

AWAITED_INTERVAL = 0.4
"""Seconds between two reads while an allocation has not shown all of its checks' first results."""
SILENT_INTERVAL = 5.0
"""Seconds before a client that did not answer is asked again."""

SUBJECT = "checks"


class Polls:
    """The turns of all allocations with checks. `told` is called when an answer may have changed something."""

    def __init__(self, config: NomadConfig, api: NomadApi, known: Known, told: Callable[[], None]) -> None:
        self._config = config
        self._api = api
        self._known = known
        self._told = told
        self._clock = asyncio.get_running_loop().time
        self._turns: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        """When each allocation is due; turns of another time are void."""
        self._sooner = asyncio.Event()
        self._silent: dict[str, float] = {}
        """By node that did not answer, when it may be asked again."""
        self._pace = full_bucket(config.check_rate, config.check_rate, self._clock())

    def choose(self) -> None:
        """Give a turn to allocations that have none, at once, and take it from those that are not to be asked for."""
        while self._known.polled_anew:
            alloc = self._known.polled_anew.pop()
            if alloc not in self._known.polled:
                self._due.pop(alloc, None)
            elif alloc not in self._due:
                self._schedule(alloc, 0)

    def hurry(self, alloc: str) -> None:
        """Ask for this one now."""
        if alloc in self._due:
            self._schedule(alloc, 0)

    async def first_round(self) -> None:
        """Ask for every allocation once."""
        self.choose()
        allocs = list(self._due)
        await asyncio.gather(*(self._first(allocs) for _ in range(min(POLLS, len(allocs)))))

    async def _first(self, allocs: list[str]) -> None:
        while allocs:
            await self._poll(allocs.pop())

    async def run(self) -> None:
        """Poll for ever, as one of several workers."""
        while True:
            while not self._turns:
                self._sooner.clear()
                await self._sooner.wait()
            at, alloc = self._turns[0]
            if self._due.get(alloc) != at:
                heapq.heappop(self._turns)
                continue
            now = self._clock()
            if at > now:
                self._sooner.clear()
                try:
                    async with asyncio.timeout(at - now):
                        await self._sooner.wait()
                except TimeoutError:
                    pass
                continue
            heapq.heappop(self._turns)
            self._due[alloc] = float("inf")  # its turn is now: not another one before it is over
            self._pace, wait = self._pace.take(now)
            if wait:
                await asyncio.sleep(wait)
            await self._poll(alloc)

    async def _poll(self, alloc: str) -> None:
        node = self._known.polled.get(alloc)
        if node is None:
            self._due.pop(alloc, None)
            return
        now = self._clock()
        if now < self._silent.get(node, 0):
            self._known.silent(alloc, now)
        else:
            if node in self._silent:
                self._silent[node] = now + SILENT_INTERVAL  # this one finds out, for all
            await self._ask(alloc, node)
        self._told()
        if alloc in self._known.polled:
            if now < self._silent.get(node, 0):
                interval = SILENT_INTERVAL
            elif self._known.is_waiting(alloc):
                interval = min(AWAITED_INTERVAL, self._config.check_interval)
            else:
                interval = self._config.check_interval
            self._schedule(alloc, interval * random.uniform(0.75, 1.25))  # noqa: S311 - so that they spread
        else:
            self._due.pop(alloc, None)

    async def _ask(self, alloc: str, node: str) -> None:
        try:
            results = await self._api.checks(alloc)
        except NotThereError:
            pass  # the allocation is over, and its event on the way
        except ForbiddenError as e:
            self._known.remark(SUBJECT, f"cannot be read, so health is without them: {e}")
            self._known.heard_checks(alloc, ())
        except AdapterError:
            self._silent[node] = self._clock() + SILENT_INTERVAL
            self._known.silent(alloc, self._clock())
        else:
            self._silent.pop(node, None)
            self._known.heard_checks(alloc, results)
            self._known.remark(SUBJECT, "")

    def _schedule(self, alloc: str, seconds: float) -> None:
        at = self._clock() + seconds
        self._due[alloc] = at
        heapq.heappush(self._turns, (at, alloc))
        if self._turns[0] == (at, alloc):
            self._sooner.set()
