"""Which of the services that have no blocking query of their own are to be read, and when.

Three blocking queries are always under way: the list of services, the checks that do not pass, and the list of nodes. The second
names the services whose checks turned, the third the nodes that went or moved, and so the services on them: one write changes
them all, under one index. The first says *that* registrations changed, mostly without saying whose: each write has an index, and
a move of the list is explained when a service was read that has its index. Where nothing explains it, all checks are read
once and compared with those that were read before: instances nearly always have a check, so an instance that came or went is
named. What even that leaves unexplained (an address, a weight, an instance without a check) is found by a *sweep*: all that are
not watched are read.

A move may also be explained in part: some service has its index, but there were more writes than services account for. They may
have been of another kind, or a registration hides behind one that is known. So all checks are read, and in the end all services,
without haste, unless moves that nothing explained came just before: in a burst there is something behind most. Even a move that
is explained may hide something: one transaction may change several services, under one index. So in the end all are read.

Reading all checks, and all services, is held to a share of the time: each has a bucket of seconds.

The checks' own waking is not asked to be explained: whatever it brings that the list does not (a status) is in the checks that do
not pass, before or after it.
"""

from __future__ import annotations

import asyncio

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.consul.api import ConsulApi
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.lists import Checks, changed_checks
from isthmus.registry.consul.query import Urgency
from isthmus.registry.consul.services import LONG_WAIT, Services, Spawn
from isthmus.registry.cursor import Bucket, full_bucket, step

SETTLE = 0.025
"""Seconds that watched and named services have to explain a move of the list. Consul answers most within 15 ms."""

HINDSIGHT, AFTERTHOUGHT = 1.0, 30.0
"""Seconds to reading all checks, and to the sweep, after a move that was explained in part."""

LAST_THOUGHT = 120.0
"""Seconds to the sweep after a move that was explained."""

BURST = 1.0
"""Seconds from a move that nothing explained in which one that was explained in part is of the same burst, and to its sweep."""

CHECKS_BURST, SWEEPS_BURST, SHARE = 1.0, 2.0, 0.25
"""Seconds that reading all checks, and sweeps, may take at once, and their share of the time in the long run."""

NO_CHECKS = 60.0
"""Seconds without reading all checks, after that has failed: they may be more than an answer may hold."""

LIST_BURST, LIST_RATE = 100.0, 10.0
TROUBLES_BURST, TROUBLES_RATE = 100.0, 10.0
NODES_BURST, NODES_RATE = 10.0, 1.0
"""Turns of each loop, at once and per second, when what it watches changes all the time."""


class _Move(msgspec.Struct, frozen=True):
    """The list went from one index to another. `named` is whether it told by itself which services changed."""

    before: int
    after: int
    named: bool


class Hints:
    """The hints of one iteration: `begin`, then have everything read, then `follow`."""

    def __init__(
        self, config: ConsulConfig, api: ConsulApi, stats: ReadStats, known: Known, services: Services
    ) -> None:
        self._config = config
        self._api = api
        self._stats = stats
        self._known = known
        self._services = services
        self._clock = asyncio.get_running_loop().time
        self._checks: Checks | None = None
        self._checks_budget = full_bucket(CHECKS_BURST, SHARE, self._clock())
        self._checks_from = self._no_checks_until = self._clock()
        self._unexplained: list[_Move] = []
        self._unexplained_at = float("-inf")
        self._look = asyncio.Event()
        self._sweep_at = self._full_at = self._clock() + LONG_WAIT
        self._sweep_sooner = asyncio.Event()
        self._sweeping = False
        self._hurry = False

    async def begin(self) -> None:
        """Ask before any service is read, so that what changes meanwhile wakes the queries that follow."""
        self._troubles = await self._api.troubles()
        self._nodes = await self._api.nodes()
        self._services.nodes = self._nodes.value.keys()
        await self.hear_names()
        if len(self._known.names) > self._config.watched:
            await self._named_by_checks()

    async def hear_names(self) -> None:
        """Ask which services there are."""
        answer = await self._api.names()
        self._list_index = step(0, answer.index).index
        self._known.heard_list(answer.value, answer.index, answer.filtered)
        self._prove_life(answer.current)

    def follow(self, spawn: Spawn) -> None:
        """Go on asking, in the background."""
        for loop in (self._follow_list, self._follow_troubles, self._follow_nodes, self._look_at_checks, self._sweep):
            spawn(loop())

    def _prove_life(self, current: bool) -> None:
        if current:
            self._stats.alive()

    async def _follow_list(self) -> None:
        index = self._list_index
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
            change = self._known.heard_list(answer.value, answer.index, answer.filtered)
            self._services.unwatch(change.gone | change.missing)
            self._services.want(change.touched | change.missing)
            self._services.watch_more()
            self._services.tell()
            if after.moved and not self._services.all_watched:
                move = _Move(index, answer.index, bool(change.gone or change.missing or change.touched))
                asyncio.get_running_loop().call_later(SETTLE, self._judge, move)
            index = after.index
            pace = await self._pause(pace)

    async def _follow_troubles(self) -> None:
        index, before = step(0, self._troubles.index).index, self._troubles.value
        pace = full_bucket(TROUBLES_BURST, TROUBLES_RATE, self._clock())
        while True:
            answer = await self._api.troubles(index, LONG_WAIT)
            self._services.want(self._known.with_checks(*changed_checks(before, answer.value)))
            before = answer.value
            index = step(index, answer.index).index
            pace = await self._pause(pace)

    async def _follow_nodes(self) -> None:
        index, before = step(0, self._nodes.index).index, self._nodes.value
        pace = full_bucket(NODES_BURST, NODES_RATE, self._clock())
        while True:
            answer = await self._api.nodes(index, LONG_WAIT)
            after = step(index, answer.index)
            if not after.went_back:  # else a server answered that is behind
                differ = frozenset(node for node, _ in before.items() ^ answer.value.items())
                self._services.want(self._known.with_checks(frozenset(), differ))
                before = answer.value
                self._services.nodes = before.keys()
            index = after.index
            pace = await self._pause(pace)

    def _judge(self, move: _Move) -> None:
        """Decide what is to be done about a move that has had its time to be explained."""
        last, all_of_it = self._known.explained(move.before, move.after)
        if all_of_it or (move.named and move.after == move.before + 1):
            self._sweep_in(LAST_THOUGHT)
            return
        if not last:
            self._unexplained.append(move)
            self._unexplained_at = self._clock()
            self._look.set()
            return
        in_a_burst = self._clock() - self._unexplained_at < BURST
        self._sweep_in(BURST if in_a_burst else AFTERTHOUGHT)
        asyncio.get_running_loop().call_later(HINDSIGHT, self._look.set)

    async def _look_at_checks(self) -> None:
        while True:
            await self._look.wait()
            await asyncio.sleep(self._checks_from - self._clock())
            self._look.clear()
            moves, self._unexplained = self._unexplained, []
            named = await self._named_by_checks()
            await self._services.read(named)
            for move in moves:
                last, all_of_it = self._known.explained(move.before, move.after)
                if not named and self._sweeping:
                    # The sweep may have come across one service and been too early for another.
                    last = all_of_it = False
                seconds = AFTERTHOUGHT if last or move.named else 0
                self._sweep_in(LAST_THOUGHT if all_of_it else seconds)

    async def _named_by_checks(self) -> frozenset[str]:
        """The services whose checks are not what they were when all checks were read before. None of them, if it fails."""
        if self._clock() < self._no_checks_until:
            return frozenset()
        began, before = self._clock(), self._checks
        try:
            self._checks = (await self._api.checks()).value
        except AdapterError:
            # The blocking queries prove whether Consul is there; without this hint everything is swept.
            self._no_checks_until = self._clock() + NO_CHECKS
            return frozenset()
        self._checks_budget, wait = self._checks_budget.take(self._clock(), self._clock() - began)
        self._checks_from = self._clock() + wait
        return self._known.with_checks(*changed_checks(before, self._checks)) if before else frozenset()

    async def _sweep(self) -> None:
        budget = full_bucket(SWEEPS_BURST, SHARE, self._clock())
        while True:
            try:
                async with asyncio.timeout_at(self._sweep_at):
                    await self._sweep_sooner.wait()
                self._sweep_sooner.clear()
                continue
            except TimeoutError:
                pass
            began = self._clock()
            self._sweep_at = began + LONG_WAIT
            urgency = Urgency.SWEPT if began >= self._full_at else Urgency.PROBED
            if urgency is Urgency.SWEPT:
                self._full_at = self._sweep_at
            hurried, self._hurry, self._sweeping = self._hurry, False, True
            await self._services.sweep(urgency, lambda: hurried or self._hurry)  # noqa: B023 - awaited at once
            self._sweeping = False
            if hurried:
                budget, wait = budget.take(self._clock(), self._clock() - began)
                await asyncio.sleep(wait)

    def _sweep_in(self, seconds: float) -> None:
        at = self._clock() + seconds
        self._hurry |= not seconds
        if at < self._sweep_at:
            self._sweep_at = at
            self._sweep_sooner.set()

    async def _pause(self, pace: Bucket) -> Bucket:
        pace, wait = pace.take(self._clock())
        if wait:
            await asyncio.sleep(wait)
        return pace
