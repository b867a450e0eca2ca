"""Keeping the services of one agent registered, until they are withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from isthmus.agent.registration.claim import Claim, Registered
from isthmus.agent.registration.place import Place, RegistrationError, SupersededError, TakenError
from isthmus.agent.registration.upkeep import Upkeep
from isthmus.registry.model import Health

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds that draining and withdrawing have to be told to the registry, before the agent goes on without."""

AT_ONCE = 8
"""Registrations that are written at a time."""

AGAIN = 0.5
"""Seconds between attempts to withdraw."""


class Standing(msgspec.Struct, frozen=True):
    """How one registration stands. `since` is when it became so, in seconds since 1970; `error` is empty while all is well."""

    id: str
    service: str
    registered: bool
    health: Health
    since: float
    error: str


class _Kept:
    """One registration, what is known of it, and who waits for news of it."""

    def __init__(self, service: Registered, every: float) -> None:
        self.service = service
        self.upkeep = Upkeep(every)
        self.upkeep.since = time.monotonic()
        self.news = asyncio.Event()
        self.settled = asyncio.Event()


class Registrar:
    """All registrations of one agent in one registry, or in none."""

    def __init__(self, place: Place | None, services: Sequence[Registered], epoch: int) -> None:
        self._place = place
        self._epoch = epoch
        self._kept = {s.id: _Kept(s, place.every) for s in services} if place else {}
        self._ids = frozenset(s.id for s in services)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._draining = False
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Keep everything registered, until cancelled, which leaves it as it is, or withdrawn."""
        self._ended.clear()
        try:
            async with asyncio.TaskGroup() as group:
                for kept in self._kept.values():
                    group.create_task(self._keep(kept))
                await self._leaving.wait()
        finally:
            self._ended.set()
            if self._place is not None and not self._leaving.is_set():
                await self._place.close()

    def report(self, service_id: str, healthy: bool, why: str) -> None:
        """The instance has turned out to be healthy, or not: the verdict of its probe, or of whoever knows without one.

        Raises:
            KeyError: there is no such service.

        """
        if service_id not in self._ids:
            raise KeyError(service_id)
        if (kept := self._kept.get(service_id)) and not self._draining:
            self._tell(kept, Health.HEALTHY if healthy else Health.UNHEALTHY, why)

    async def drain(self) -> None:
        """Have callers go elsewhere: returns when the registry knows, or after PATIENCE."""
        self._draining = True
        for kept in self._kept.values():
            self._tell(kept, Health.DRAINING, "the agent is being stopped")
        try:
            async with asyncio.timeout(PATIENCE):
                for kept in self._kept.values():
                    await kept.settled.wait()
        except TimeoutError:
            waiting = sorted(k.service.id for k in self._kept.values() if not k.settled.is_set())
            log.warning("agent.drain_unannounced", services=waiting, waited=PATIENCE)

    async def withdraw(self, ids: Collection[str] | None = None) -> None:
        """Take away what this agent has registered, or these alone, and end `run`.

        What cannot be taken away within PATIENCE ends with its TTL.
        """
        self._leaving.set()
        for kept in self._kept.values():
            kept.news.set()
        # A registration that is under way must not arrive after its own withdrawal: it has its own limit in time.
        await self._ended.wait()
        if self._place is not None:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            going = [k for k in self._kept.values() if ids is None or k.service.id in ids]
            await asyncio.gather(*(self._withdraw(self._place, k, deadline) for k in going))
            await self._place.close()

    def standings(self) -> tuple[Standing, ...]:
        """How each registration stands."""
        ago = time.time() - time.monotonic()
        return tuple(
            Standing(
                kept.service.id,
                kept.service.service,
                kept.upkeep.registered,
                kept.upkeep.health,
                ago + (kept.upkeep.failing_since if kept.upkeep.error else kept.upkeep.since),
                kept.upkeep.error,
            )
            for kept in self._kept.values()
        )

    def problems(self) -> list[str]:
        """What is wrong, each in one sentence for an operator."""
        found: list[str] = []
        for kept, standing in zip(self._kept.values(), self.standings(), strict=True):
            since = datetime.fromtimestamp(standing.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            name = f"service {standing.service} ({standing.id})"
            if standing.error and kept.upkeep.stopped:
                found.append(f"{name} is not registered since {since}: {standing.error}")
            elif standing.error:
                state = "its registration is not kept up" if standing.registered else "it is not registered"
                found.append(f"{name}: {state} since {since}: {standing.error}")
            elif standing.health is Health.UNHEALTHY:
                found.append(f"{name} is unhealthy since {since}: {kept.upkeep.why}")
        return found

    def _tell(self, kept: _Kept, health: Health, why: str) -> None:
        before = kept.upkeep.health
        kept.upkeep.report(health, why, time.monotonic())
        if health is not before:
            kept.settled.clear()
            if kept.upkeep.stopped:
                kept.settled.set()
            kept.news.set()
            log.info("agent.health_changed", id=kept.service.id, before=before.value, health=health.value, why=why)

    async def _keep(self, kept: _Kept) -> None:
        assert self._place is not None  # noqa: S101 - there is nothing to keep otherwise
        while not self._leaving.is_set() and not kept.upkeep.stopped:
            wait = kept.upkeep.due - time.monotonic()
            if wait <= 0:
                async with self._slots:
                    if not self._leaving.is_set():
                        await self._attempt(self._place, kept)
                continue
            kept.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await kept.news.wait()

    async def _attempt(self, place: Place, kept: _Kept) -> None:
        """Put or renew, once, and note what came of it."""
        upkeep, claim = kept.upkeep, self._claim(kept)
        was_registered, was_failing = upkeep.registered, bool(upkeep.error)
        try:
            if upkeep.to_put:
                upkeep.tried = True
                await place.put(claim)
                upkeep.did_put(claim.health, time.monotonic())
                if was_failing or not was_registered:
                    log.info("agent.registered", **_about(place, claim))
            elif not (known := await place.renew(claim)):
                upkeep.did_renew(known, time.monotonic())
                log.warning("agent.registration_lost", **_about(place, claim))
            else:
                upkeep.did_renew(known, time.monotonic())
                if was_failing:
                    log.info("agent.registered", **_about(place, claim))
        except SupersededError as e:
            upkeep.superseded(str(e), time.monotonic())
            log.error("agent.superseded", **_about(place, claim), error=str(e))  # noqa: TRY400 - no programming error
        except RegistrationError as e:
            if str(e) != upkeep.error:
                log.warning("agent.registration_failed", **_about(place, claim), error=str(e))
            upkeep.failed(str(e), time.monotonic(), random.random())  # noqa: S311 - no secret
        if upkeep.stopped or (upkeep.registered and not upkeep.to_put):
            kept.settled.set()

    async def _withdraw(self, place: Place, kept: _Kept, deadline: float) -> None:
        if kept.upkeep.stopped or not kept.upkeep.tried:
            return
        claim = self._claim(kept)
        error = ""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        async with self._slots:
                            await place.remove(claim)
                    except (SupersededError, TakenError):
                        return  # it is somebody else's
                    except RegistrationError as e:
                        error = str(e)
                        await asyncio.sleep(AGAIN)
                    else:
                        break
        except TimeoutError:
            log.warning("agent.withdrawal_failed", **_about(place, claim), error=error or "no answer")
        else:
            log.info("agent.withdrawn", **_about(place, claim))

    def _claim(self, kept: _Kept) -> Claim:
        return Claim(kept.service, self._epoch, kept.upkeep.health, kept.upkeep.why)


def _about(place: Place, claim: Claim) -> dict[str, object]:
    return {
        "service": claim.service.service,
        "id": claim.service.id,
        "registry": place.name,
        "health": claim.health.value,
        "epoch": claim.epoch,
    }
