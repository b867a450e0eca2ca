"""Workloads that register with the bridge: who is there, who has it, who is still heard of.

A record is written when something about it changes, and never for a heartbeat. Heartbeats are remembered by the replica that is
named in the record. A replica that hears of another one's workloads tells it so, through the store, and takes over those of one
that does not live (replicas.py, silence.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable

import msgspec
import structlog

from isthmus.bridge.answers import WorkloadState
from isthmus.bridge.records import Known, Records
from isthmus.bridge.replicas import Replicas, follow
from isthmus.bridge.silence import Judgement, Listener, Rules, judge
from isthmus.registry.adapter import AdapterError
from isthmus.registry.guard import GuardRules
from isthmus.registry.kv.edge import Store
from isthmus.registry.workloads.record import FOLDER, Workload, check_id, parse_registration, to_workload

log = structlog.get_logger()

MAX_WORKLOADS = 50_000
ATTEMPTS = 10
AT_ONCE = 16
"""Records that are written at a time."""
TICK = 1.0
"""Seconds between two looks at who is silent."""
SLOW = 1.0
"""Seconds after which the store is taken for one that keeps back what others have heard."""


class OlderError(Exception):
    """A larger epoch has the id."""


class UnknownError(Exception):
    """There is nothing registered by that id and epoch."""


class BusyError(Exception):
    """There are too many, or too many who change the same one."""


class Registrations:
    """What is registered in a store, as one replica of the bridge sees it. `name` is this one's, the same after a restart."""

    def __init__(self, store: Store, name: str, guard: GuardRules) -> None:
        self._store = store
        self._name = name
        self._guard = guard
        self._records = Records(store)
        self._replicas = Replicas(store, name, self._others_heard)
        self._vouched: set[str] = set()
        """Heard of since the last sign of life, and watched over by others that live."""
        self._adopted: set[str] = set()
        """Heard of, and watched over by a replica that does not live."""
        self._judged = Judgement()
        self._excused = float("-inf")
        """Silence counts from here at the earliest: until then the store may have kept back what others have heard."""

    async def run(self) -> None:
        """Follow the store, and take out who is silent; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(self._store, FOLDER, self._records.take, self._records.lost), name="workloads")
            group.create_task(self._replicas.run(), name="workloads replicas")
            group.create_task(self._sweep(), name="workloads sweep")

    async def register(self, id_: str, body: bytes) -> Workload:
        """Put what a workload says in the place of what it said before.

        Raises:
            RecordError: it cannot be used.
            OlderError: a larger epoch has the id.
            BusyError: there are too many.
            AdapterError: the store cannot be written.

        """
        check_id(id_)
        registration = parse_registration(body)
        known = await self._records.find(id_)
        for _ in range(ATTEMPTS):
            before = known.workload if known else None
            if before is not None and before.epoch > registration.epoch:
                raise _older(id_, before.epoch, registration.epoch)
            goes_on = before is not None and before.epoch == registration.epoch and self._lives(before.bridge)
            workload = to_workload(registration, id_, before.bridge if before and goes_on else self._name)
            if known is not None and before == workload:
                self._hear(known)
                return workload
            if known is None and len(self._records.by_id) >= MAX_WORKLOADS:
                raise BusyError(f"{MAX_WORKLOADS} workloads are registered; no more are taken")
            if written := await self._records.put(workload, known.version if known else ""):
                self._hear(written)
                _say_registered(workload, before)
                return workload
            known = await self._records.fetch(id_)
        raise _busy(id_)

    async def heartbeat(self, id_: str, epoch: int) -> Workload:
        """A sign of life.

        Raises:
            RecordError: that is no id.
            UnknownError: it has to register, again or first.
            OlderError: a larger epoch has the id.
            AdapterError: it is not known here, and the store cannot be read.

        """
        known = await self._of_epoch(id_, epoch)
        self._hear(known)
        return known.workload

    async def withdraw(self, id_: str, epoch: int) -> Workload:
        """Take out what that epoch registered.

        Raises:
            RecordError: that is no id.
            UnknownError: there is nothing of that epoch.
            OlderError: a larger epoch has the id.
            BusyError: others change it again and again.
            AdapterError: the store cannot be written.

        """
        for _ in range(ATTEMPTS):
            known = await self._of_epoch(id_, epoch)
            if await self._records.delete(known):
                log.info("workloads.withdrawn", id=id_, service=known.workload.service, epoch=epoch)
                return known.workload
        raise _busy(id_)

    def states(self) -> list[WorkloadState]:
        """Everything that is registered, by id."""
        now = time.monotonic()
        held = frozenset(self._judged.held)
        return [
            WorkloadState(
                id=id_,
                service=f"{known.workload.service}.{known.workload.namespace}",
                address=known.workload.address,
                ports=known.workload.ports,
                health=known.workload.health,
                weight=known.workload.weight,
                labels=known.workload.labels,
                epoch=known.workload.epoch,
                ttl=known.workload.ttl,
                bridge=known.workload.bridge,
                heard_s_ago=round(max(0.0, now - known.heard), 1),
                held=id_ in held,
            )
            for id_, known in sorted(self._records.by_id.items())
        ]

    async def _of_epoch(self, id_: str, epoch: int) -> Known:
        check_id(id_)
        known = await self._records.find(id_)
        if known is not None and known.workload.epoch != epoch:
            known = await self._records.fetch(id_)  # the watch may be a moment behind
        if known is None or known.workload.epoch < epoch:
            raise UnknownError(f"workload {id_} is not registered with epoch {epoch}")
        if known.workload.epoch > epoch:
            raise _older(id_, known.workload.epoch, epoch)
        return known

    def _hear(self, known: Known) -> None:
        known.heard = time.monotonic()
        if known.workload.bridge != self._name:
            (self._vouched if self._lives(known.workload.bridge) else self._adopted).add(known.workload.id)

    def _others_heard(self, ids: Iterable[str]) -> None:
        now = time.monotonic()
        for known in filter(None, map(self._records.by_id.get, ids)):
            known.heard = now

    def _lives(self, bridge: str) -> bool:
        return not self._replicas.silent({bridge}, time.monotonic(), self._records.period)

    async def _sweep(self) -> None:
        said_at = float("-inf")
        failing = False
        while True:
            await asyncio.sleep(min(TICK, self._records.period))
            try:
                if time.monotonic() - said_at >= self._records.period:
                    said_at = time.monotonic()
                    await self._say()
                    if time.monotonic() - said_at > SLOW:
                        self._excused = time.monotonic()
                await self._take_over()
                await self._expire()
            except AdapterError as e:
                self._excused = time.monotonic()
                if not failing:
                    log.warning("workloads.not_written", error=str(e))
                failing = True
            else:
                if failing:
                    log.info("workloads.written_again")
                failing = False

    async def _say(self) -> None:
        """Tell the others that this replica lives, where they have to know."""
        bridges = {known.workload.bridge for known in self._records.by_id.values()}
        vouched = self._vouched.copy()
        if self._name in bridges or vouched:
            await self._replicas.say(vouched)
            self._vouched -= vouched
        await self._replicas.tidy(bridges, time.monotonic(), self._records.period)

    async def _take_over(self) -> None:
        """Watch over those that are heard here, since who did so before does not live."""
        ids = sorted(self._adopted)
        for start in range(0, len(ids), AT_ONCE):
            await asyncio.gather(*(self._adopt(id_) for id_ in ids[start : start + AT_ONCE]))

    async def _adopt(self, id_: str) -> None:
        known = self._records.by_id.get(id_)
        if known is not None and not self._lives(known.workload.bridge):
            workload = msgspec.structs.replace(known.workload, bridge=self._name)
            if await self._records.put(workload, known.version):
                log.info("workloads.taken_over", id=id_, service=workload.service, before=known.workload.bridge)
        self._adopted.discard(id_)

    async def _expire(self) -> None:
        if not (self._records.followed and self._replicas.followed):
            return
        now = time.monotonic()
        period = self._records.period
        since = max(self._excused, self._records.followed_since)
        listeners = [
            Listener(id_, known.workload.bridge, known.workload.ttl, max(known.heard, since))
            for id_, known in self._records.by_id.items()
        ]
        silent = self._replicas.silent({one.bridge for one in listeners}, now, period)
        rules = Rules(self._guard.hold, self._guard.shrink, 2 * period if self._replicas.others else 0.0)
        before, self._judged = self._judged, judge(listeners, self._name, silent, now, rules)
        if (held := self._judged.held) and not before.held:
            log.warning("workloads.held", count=len(held), ids=list(held[:10]))
        elif before.held and not held:
            log.info("workloads.hold_ended")
        gone = self._judged.gone
        for start in range(0, len(gone), AT_ONCE):
            await asyncio.gather(*(self._let_go(id_, now) for id_ in gone[start : start + AT_ONCE]))

    async def _let_go(self, id_: str, now: float) -> None:
        known = self._records.by_id.get(id_)
        if known is not None and known.heard <= now and await self._records.delete(known):
            silent_for = round(now - known.heard, 1)
            log.warning("workloads.expired", id=id_, service=known.workload.service, silent_for_s=silent_for)


def replica_name(host: str, address: str) -> str:
    """The name of the replica that listens at an address of a host: the same after a restart, and another one beside it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{host[:150]}-{address.rpartition(':')[2]}").lstrip("._-")


def _older(id_: str, has: int, said: int) -> OlderError:
    return OlderError(f"workload {id_} is registered with epoch {has}, which is later than {said}")


def _busy(id_: str) -> BusyError:
    return BusyError(f"workload {id_}: others have changed it {ATTEMPTS} times in a row")


def _say_registered(workload: Workload, before: Workload | None) -> None:
    if before is None or before.epoch != workload.epoch:
        log.info(
            "workloads.registered",
            id=workload.id,
            service=workload.service,
            address=workload.address,
            epoch=workload.epoch,
            health=workload.health,
        )
    elif before.health != workload.health:
        log.info("workloads.health", id=workload.id, service=workload.service, health=workload.health)
