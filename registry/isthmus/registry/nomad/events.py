"""Nomad's event stream: what each event says goes into what is known.

A subscription begins with what the server still has of the past, some hundred events. So it is opened before anything is listed,
what it brings meanwhile waits, and indexes tell what the listing contains already. Whatever ends it ends the iteration: nobody
knows what was missed, and a new subscription may begin after it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import msgspec

from isthmus.registry.adapter import AdapterError
from isthmus.registry.cursor import read_timeout
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
from isthmus.registry.nomad.config import NomadConfig
from isthmus.registry.nomad.http import ForbiddenError, NotThereError
from isthmus.registry.nomad.known import Known

TOPICS = ("Service", "Allocation", "Job", "Node")
"""What is followed. An allocation's events carry what its deployment has found; the last topic needs node:read."""

EARLY = 100_000
"""Lines that may wait for the listing to be complete."""


class Subscription(msgspec.Struct, frozen=True):
    """A stream that has begun, and its first line."""

    lines: AsyncGenerator[bytes, None]
    first: bytes


class Events:
    """All subscriptions of one iteration. `told` is called when something may have changed.

    `unclear` is called with a service that an event says too little about, so that it is to be read; `began` with an allocation
    whose instance was registered.
    """

    def __init__(
        self,
        config: NomadConfig,
        api: NomadApi,
        known: Known,
        *,
        told: Callable[[], None],
        unclear: Callable[[ServiceName], None],
        began: Callable[[str], None],
    ) -> None:
        self._nomad = f"nomad at {config.address}"
        self._within = read_timeout(config.heartbeat)
        self._api = api
        self._known = known
        self._told = told
        self._unclear = unclear
        self._began = began
        self._clock = asyncio.get_running_loop().time
        self._early: list[Batch] | None = []
        """What came before the listing was complete; None afterwards."""

    async def subscribe(self) -> Subscription | None:
        """Open a stream of what the token may follow; None where there is none for us.

        Raises:
            AdapterError: the server does not answer.

        """
        for topics in (TOPICS, TOPICS[:-1]):
            lines = self._api.events(topics)
            try:
                async with asyncio.timeout(self._within):
                    return Subscription(lines, await anext(lines))
            except ForbiddenError as e:
                self._known.remark("nodes", f"cannot be followed, so drains are not noticed: {e}")
                refusal = str(e)
            except NotThereError as e:
                refusal = str(e)
                break
            except TimeoutError as e:
                await lines.aclose()
                raise AdapterError(f"{self._nomad}: the event stream says nothing") from e
        self._known.remark("nodes", "")
        self._known.remark("event stream", f"cannot be followed, so blocking queries take its place: {refusal}")
        return None

    async def follow(self, subscription: Subscription) -> None:
        """Hear each line, until the stream ends by an AdapterError."""
        async with contextlib.aclosing(subscription.lines) as lines:
            index = self._hear_line(subscription.first, 0)
            async for line in lines:
                index = self._hear_line(line, index)

    def listed(self) -> None:
        """The listing is complete: hear what has waited for it, and what comes from now on at once."""
        early, self._early = self._early or [], None
        for batch in early:
            self._hear_batch(batch)

    def _hear_line(self, line: bytes, before: int) -> int:
        """One line of a stream whose last index is given; returns its own."""
        try:
            batch = parse_batch(line)
        except msgspec.DecodeError as e:
            said = bytes(line[:300]).decode(errors="replace")
            raise AdapterError(
                f"{self._nomad}: the event stream cannot be read ({e}): {said}; everything is listed again"
            ) from e
        if batch.events is not None and batch.index < before:
            raise AdapterError(
                f"{self._nomad}: the index of the event stream went back from {before} to {batch.index}: "
                "a snapshot was restored, or the servers began anew; everything is listed again"
            )
        if self._early is None:
            self._hear_batch(batch)
        elif len(self._early) < EARLY:
            self._early.append(batch)
        else:
            raise AdapterError(f"{self._nomad}: more events than the listing can wait for")
        return max(before, batch.index)

    def _hear_batch(self, batch: Batch) -> None:
        for event in batch.events or ():
            subject = f"{event.topic.lower()} {event.key}"
            try:
                self._hear(event)
            except msgspec.DecodeError as e:
                self._known.remark(subject, f"its event cannot be read: {e}")
                if event.topic == "Service" and event.filter_keys:
                    # The name of the service is the last key; what is listed under it can be read one by one.
                    self._unclear(ServiceName(event.namespace, event.filter_keys[-1]))
            else:
                self._known.remark(subject, "")
        if batch.events:
            self._told()

    def _hear(self, event: Event) -> None:
        match event.topic:
            case "Service":
                registration = parse_service_payload(event)
                name = ServiceName(registration.namespace, registration.service)
                if self._known.has_unreadable(name):
                    self._unclear(name)
                if event.type == "ServiceRegistration":
                    self._known.registered(registration, event.index, self._clock())
                    self._began(registration.alloc)
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
