"""Reading everything that one Nomad holds, once: the list of services, each service, and what their health is joined from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TypeVar

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.cursor import step
from isthmus.registry.nomad.answers import ServiceName
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import READERS, NomadConfig
from isthmus.registry.nomad.facts import JobKey
from isthmus.registry.nomad.http import ForbiddenError, NotThereError, RefusedError
from isthmus.registry.nomad.known import Known

RETRIES = (0.2, 1.0)
"""Seconds before each further attempt to read one object."""

T = TypeVar("T")


class Reads:
    """The reads; what they find goes into `known`. Each raises AdapterError when something cannot be read."""

    def __init__(self, config: NomadConfig, api: NomadApi, known: Known, stats: ReadStats) -> None:
        self._config = config
        self._api = api
        self._known = known
        self._stats = stats
        self._clock = asyncio.get_running_loop().time

    async def everything(self) -> tuple[int, int]:
        """Read all of it; returns the indexes of the list of services and of that of the namespaces."""
        namespaces = await self._api.namespaces()
        if namespaces.current:
            self._stats.alive()
        self._known.heard_namespaces(namespaces.value)
        region = self._config.region or _only(await self._api.regions())
        shown = self._known.shown
        shown.rules = msgspec.structs.replace(shown.rules, region=region)
        services = await self.services()
        await self.allocations()
        await self.missing()
        self._known.expire(self._clock())
        return services, step(0, namespaces.index).index

    async def services(self) -> int:
        """Read the list of services and each of them; returns the index of the list."""
        answer = await self._api.services()
        await self.each(self._known.heard_list(answer.value, answer.index, self._clock()))
        return step(0, answer.index).index

    async def each(self, names: Iterable[ServiceName]) -> None:
        """Read these services."""
        waiting = list(names)

        async def work() -> None:
            while waiting:
                await self.service(waiting.pop())

        await together(work() for _ in range(min(READERS, len(waiting))))

    async def service(self, name: ServiceName) -> None:
        """Read one service."""
        answer = await _retry(lambda: self._api.registrations(name))
        self._known.heard_service(name, answer.value, answer.index, self._clock())

    async def allocations(self) -> None:
        """Read the allocations that are not over."""
        try:
            answer = await self._api.allocations()
        except ForbiddenError as e:
            self._known.remark("allocations", f"cannot be read, so the health of all instances is unknown: {e}")
        else:
            self._known.remark("allocations", "")
            self._known.heard_allocations(answer.value, answer.index)

    async def missing(self) -> None:
        """Read what services turned out to depend on, and no list has."""
        missing = self._known.missing()
        await together(
            [
                *(self.allocation(id_) for id_ in missing.allocs),
                *(self.node(id_) for id_ in missing.nodes),
                *(self.job(key) for key in missing.jobs),
            ]
        )

    async def allocation(self, id_: str) -> None:
        """Read one allocation, whatever its state."""
        try:
            self._known.heard_allocation(await _retry(lambda: self._api.allocation(id_)))
        except (ForbiddenError, NotThereError):
            self._known.no_allocation(id_)

    async def node(self, id_: str) -> None:
        """Read one node."""
        try:
            self._known.heard_node(await _retry(lambda: self._api.node(id_)))
        except ForbiddenError as e:
            self._known.no_node(id_)
            self._known.remark("nodes", f"cannot be read, so neither drains nor zones are known: {e}")
        except NotThereError:
            self._known.no_node(id_)

    async def job(self, key: JobKey) -> None:
        """Read one job."""
        try:
            self._known.heard_job(await _retry(lambda: self._api.job(*key)))
        except ForbiddenError as e:
            self._known.no_job(key)
            self._known.remark("jobs", f"cannot be read, so it is unknown which instances have checks: {e}")
        except NotThereError:
            self._known.no_job(key)


async def together(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all of it at once; the first failure ends the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from None


async def _retry(read: Callable[[], Awaitable[T]]) -> T:
    for delay in RETRIES:
        try:
            return await read()
        except RefusedError:
            raise
        except AdapterError:
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - so that many do not retry in step
    return await read()


def _only(regions: tuple[str, ...]) -> str:
    """The region, where there is only one; of several nothing tells which one we ask."""
    return regions[0] if len(regions) == 1 else ""
