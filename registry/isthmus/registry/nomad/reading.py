"""One iteration of the adapter: everything is listed once, and events tell what changes (README.md).

The event stream is opened before anything is listed, and what it brings meanwhile waits until all is. Where Nomad has no stream
for us (no rights to it, an old version), blocking queries take its place. Beside it one blocking query proves that the agent is
alive, which the stream does only each 30 seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import TypeVar

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.cursor import Bucket, full_bucket, read_timeout, step
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.nomad.answers import (
    Batch,
    Event,
    ServiceName,
    parse_allocation_payload,
    parse_batch,
    parse_job_payload,
    parse_node_payload,
    parse_service_payload,
)
from isthmus.registry.nomad.api import NomadApi
from isthmus.registry.nomad.config import POLLS, READERS, NomadConfig
from isthmus.registry.nomad.http import ForbiddenError, NotThereError, RefusedError
from isthmus.registry.nomad.known import JobKey, Known
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.parse import Rules
from isthmus.registry.nomad.polls import Polls

T = TypeVar("T")

TOPICS = ("Service", "Allocation", "Job", "Node")
"""What is followed. An allocation's events carry what its deployment has found; the last topic needs node:read."""

LONG_WAIT = 300.0
"""Seconds that a blocking query may wait which proves nothing else."""
FIRST_CHECKS = 5.0
"""Seconds that the first snapshot waits for the clients' answers about checks; without one the deployment's verdict counts."""
EARLY = 100_000
"""Lines of the event stream that may wait for the listing to be complete."""
RETRIES = (0.2, 1.0)
"""Seconds before each further attempt to read one service."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at allocations that are on their way out, and at what time alone changes."""
ROUND_BURST, ROUND_RATE = 400.0, 100.0
"""Reads by blocking queries that tell nothing but that something changed, at once and per second."""


class Reading:
    """What one Nomad holds, kept current by background tasks from `begin` to `close`."""

    def __init__(self, origin: Origin, config: NomadConfig, api: NomadApi, stats: ReadStats, memory: Memory) -> None:
        self._origin = origin
        self._config = config
        self._api = api
        self._stats = stats
        rules = Rules(config.default_protocol, config.default_port)
        self._known = Known(origin, rules, config.drain_limit, memory)
        self._clock = asyncio.get_running_loop().time
        self._polls = Polls(config, api, self._known, self._tell)
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._begun = False
        self._early: list[Batch] = []
        """What the stream brought before the listing was complete."""
        self._stream: asyncio.Task[None] | None = None

    async def begin(self) -> Snapshot:
        """Read everything, and follow it from there."""
        follows_events = await self._subscribe()
        names, namespaces = await self._list()
        await self._first_checks()
        self._begun = True
        for batch in self._early:
            self._hear_batch(batch)
        self._early.clear()
        self._spawn(self._follow_namespaces(namespaces))
        self._spawn(self._look_again())
        for _ in range(POLLS):
            self._spawn(self._polls.run())
        if not follows_events:
            self._spawn(self._follow_services(names))
            self._spawn(self._follow_allocations())
            self._spawn(self._follow_nodes())
        return msgspec.structs.replace(self._known.take(self._clock()), changed=None)

    async def once(self) -> Snapshot:
        """Read everything, and follow nothing. Of checks what is remembered counts."""
        await self._list()
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

    def _tell(self) -> None:
        self._polls.choose()
        self._news.set()

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

    # The listing.

    async def _list(self) -> tuple[int, int]:
        """Read everything once; returns the indexes of the list of services and of that of the namespaces."""
        namespaces = await self._api.namespaces()
        self._prove_life(namespaces.current)
        self._known.heard_namespaces(namespaces.value)
        region = self._config.region or _only(await self._api.regions())
        self._known.rules = msgspec.structs.replace(self._known.rules, region=region)
        names = await self._list_services()
        await self._list_allocations()
        await self._fetch()
        self._known.expire(self._clock())
        return names, namespaces.index

    async def _list_services(self) -> int:
        answer = await self._api.services()
        names = self._known.heard_list(answer.value, answer.index, self._clock())
        await self._read_services(names)
        return step(0, answer.index).index

    async def _list_allocations(self) -> None:
        try:
            answer = await self._api.allocations()
        except ForbiddenError as e:
            self._known.remark("allocations", f"cannot be read, so the health of all instances is unknown: {e}")
        else:
            self._known.remark("allocations", "")
            self._known.heard_allocations(answer.value, answer.index)

    async def _read_services(self, names: Iterable[ServiceName]) -> None:
        waiting = list(names)

        async def work() -> None:
            while waiting:
                await self._read_service(waiting.pop())

        await _together(work() for _ in range(min(READERS, len(waiting))))

    async def _read_service(self, name: ServiceName) -> None:
        answer = await _retry(lambda: self._api.registrations(name))
        self._known.heard_service(name, answer.value, answer.index, self._clock())

    async def _fetch(self) -> None:
        """Read what services turned out to depend on, and no list has."""
        missing = self._known.missing()
        await _together(
            [
                *(self._read_allocation(id_) for id_ in missing.allocs),
                *(self._read_node(id_) for id_ in missing.nodes),
                *(self._read_job(key) for key in missing.jobs),
            ]
        )

    async def _read_allocation(self, id_: str) -> None:
        try:
            self._known.heard_allocation(await _retry(lambda: self._api.allocation(id_)))
        except (ForbiddenError, NotThereError):
            self._known.no_allocation(id_)

    async def _read_node(self, id_: str) -> None:
        try:
            self._known.heard_node(await _retry(lambda: self._api.node(id_)))
        except ForbiddenError as e:
            self._known.no_node(id_)
            self._known.remark("nodes", f"cannot be read, so neither drains nor zones are known: {e}")
        except NotThereError:
            self._known.no_node(id_)

    async def _read_job(self, key: JobKey) -> None:
        try:
            self._known.heard_job(await _retry(lambda: self._api.job(*key)))
        except ForbiddenError as e:
            self._known.no_job(key)
            self._known.remark("jobs", f"cannot be read, so it is unknown which instances have checks: {e}")
        except NotThereError:
            self._known.no_job(key)

    async def _first_checks(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CHECKS):
                await self._polls.first_round()

    # What changes, by events.

    async def _subscribe(self) -> bool:
        """Open the event stream in the place of the one before; False where there is none for us."""
        for topics in (TOPICS, TOPICS[:-1]):
            lines = self._api.events(topics)
            try:
                async with asyncio.timeout(read_timeout(self._config.heartbeat)):
                    first = await anext(lines)
            except ForbiddenError as e:
                self._known.remark("nodes", f"cannot be followed, so drains are not noticed: {e}")
                refusal = str(e)
            except NotThereError as e:
                refusal = str(e)
                break
            except TimeoutError as e:
                await lines.aclose()
                raise AdapterError(f"nomad at {self._config.address}: the event stream says nothing") from e
            else:
                before, self._stream = self._stream, self._spawn(self._follow_events(lines, first))
                if before is not None:
                    before.cancel()
                return True
        self._known.remark("nodes", "")
        self._known.remark("event stream", f"cannot be followed, so blocking queries take its place: {refusal}")
        return False

    async def _follow_events(self, lines: AsyncGenerator[bytes, None], first: bytes) -> None:
        index = self._hear_line(first, 0)
        async with contextlib.aclosing(lines):
            async for line in lines:
                index = self._hear_line(line, index)

    def _hear_line(self, line: bytes, before: int) -> int:
        """One line of a stream whose last index is given; returns its own."""
        try:
            batch = parse_batch(line)
        except msgspec.DecodeError as e:
            said = bytes(line[:300]).decode(errors="replace")
            raise AdapterError(
                f"nomad at {self._config.address}: the event stream cannot be read ({e}): {said}; everything is listed again"
            ) from e
        if batch.events is not None and batch.index < before:
            raise AdapterError(
                f"nomad at {self._config.address}: the index of the event stream went back from {before} to {batch.index}: "
                "a snapshot was restored, or the servers began anew; everything is listed again"
            )
        if self._begun:
            self._hear_batch(batch)
        elif len(self._early) < EARLY:
            self._early.append(batch)
        else:
            raise AdapterError(f"nomad at {self._config.address}: more events than the listing can wait for")
        return max(before, batch.index)

    def _hear_batch(self, batch: Batch) -> None:
        for event in batch.events or ():
            try:
                self._hear(event)
            except msgspec.DecodeError as e:
                self._known.remark(_subject(event), f"its event cannot be read: {e}")
                if event.topic == "Service" and event.filter_keys:
                    # The name of the service is the last key; what is listed under it can be read one by one.
                    self._spawn(self._read_service(ServiceName(event.namespace, event.filter_keys[-1])))
            else:
                self._known.remark(_subject(event), "")
        if batch.events:
            self._stats.wake_up()
            self._tell()

    def _hear(self, event: Event) -> None:
        match event.topic:
            case "Service":
                registration = parse_service_payload(event)
                name = ServiceName(registration.namespace, registration.service)
                if self._known.has_unreadable(name):
                    self._spawn(self._read_service(name))
                if event.type == "ServiceRegistration":
                    self._known.registered(registration, event.index, self._clock())
                    self._polls.hurry(registration.alloc)
                else:  # deregistered, by itself or with its node: then the type is that of what befell the node
                    self._known.deregistered(registration, event.index, self._clock())
            case "Allocation":
                self._known.heard_allocation(parse_allocation_payload(event))
            case "Node":
                self._known.heard_node(parse_node_payload(event))
            case "Job":
                job = parse_job_payload(event)
                if job is None or event.type in ("JobDeregistered", "JobBatchDeregistered"):
                    self._known.no_job((event.namespace, event.key), event.index)
                else:
                    self._known.heard_job(job)
            case _:
                pass

    # What changes, by blocking queries.

    async def _follow_namespaces(self, index: int) -> None:
        """Prove that the agent is alive; and since a stream shows the namespaces of its beginning, begin it anew for others."""
        pace = self._new_pace()
        while True:
            answer = await self._api.namespaces(index, self._config.heartbeat)
            after = step(index, answer.index)
            if after.went_back:
                raise AdapterError(
                    f"nomad at {self._config.address}: the index of the namespaces went back from {index} to "
                    f"{answer.index}: a snapshot was restored, or the servers began anew; everything is listed again"
                )
            self._prove_life(answer.current)
            if self._known.heard_namespaces(answer.value) and self._config.namespace == "*":
                if self._stream is not None:
                    await self._subscribe()
                await self._list_services()
                await self._list_allocations()
            index = after.index
            self._tell()
            pace = await self._pause(pace)

    async def _follow_services(self, index: int) -> None:
        pace = self._new_pace()
        while True:
            answer = await self._api.services(index, LONG_WAIT)
            after = step(index, answer.index)
            if after.went_back:
                raise AdapterError(
                    f"nomad at {self._config.address}: the index of the services went back from {index} to {answer.index}: "
                    "a snapshot was restored, or the servers began anew; everything is listed again"
                )
            if after.moved:
                names = self._known.heard_list(answer.value, answer.index, self._clock())
                await self._read_services(names)
                self._tell()
                await _together(self._read_job(key) for key in self._known.empty_jobs())
                self._tell()
                pace = await self._pause(pace, len(names))
            index = after.index

    async def _follow_allocations(self) -> None:
        index, pace = 0, self._new_pace()
        while True:
            try:
                answer = await self._api.allocations_after(index, LONG_WAIT)
            except ForbiddenError:
                return  # the listing has remarked it
            self._known.heard_allocations(answer.value, answer.index)
            index = step(index, answer.index).index
            self._tell()
            pace = await self._pause(pace, 10)

    async def _follow_nodes(self) -> None:
        index, pace = 0, self._new_pace()
        while True:
            try:
                answer = await self._api.nodes_after(index, LONG_WAIT)
            except ForbiddenError:
                return
            for stub in answer.value:
                node = self._known.nodes.get(stub.id)
                if node is not None and node.modify_index < stub.modify_index:
                    await self._read_node(stub.id)
            index = step(index, answer.index).index
            self._tell()
            pace = await self._pause(pace, 10)

    # What changes without a word.

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            # No event tells the end of an allocation whose job was purged.
            for id_ in self._known.leaving():
                await self._read_allocation(id_)
            self._known.expire(self._clock())
            await self._fetch()
            self._tell()

    def _new_pace(self) -> Bucket:
        return full_bucket(ROUND_BURST, ROUND_RATE, self._clock())

    async def _pause(self, pace: Bucket, cost: float = 1) -> Bucket:
        pace, wait = pace.take(self._clock(), max(1.0, cost))
        if wait:
            await asyncio.sleep(wait)
        return pace


async def _together(work: Iterable[Coroutine[None, None, None]]) -> None:
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


def _subject(event: Event) -> str:
    return f"{event.topic.lower()} {event.key}"


def _only(regions: tuple[str, ...]) -> str:
    """The region, where there is only one; of several nothing tells which one we ask."""
    return regions[0] if len(regions) == 1 else ""
