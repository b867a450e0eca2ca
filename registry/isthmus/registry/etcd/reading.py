"""One iteration of the adapter: list everything at one revision, then watch from there.

Every page of the listing is of the same revision. From there each prefix is watched, and whole revisions of a prefix are applied
at once. When the member fails, another one is asked to go on from where each prefix got to, which loses
nothing. When etcd no longer has that revision (it was compacted), everything is listed again and compared with what is known.
When another cluster answers, or one that knows less, a backup was restored: then this iteration ends, for what is missing from
such an answer was not seen to go.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
import structlog

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.etcd.api import CompactedError, RefusedError
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.known import Known, Pair
from isthmus.registry.etcd.proto import rpc_pb2 as rpc
from isthmus.registry.etcd.session import PAGE, Position, Session, open_session, to_pair
from isthmus.registry.model import Origin, Snapshot

log = structlog.get_logger()

LISTINGS = 3
"""Attempts to list everything, or to watch from there, before compaction overtakes."""

ELECTION = 5.0
"""Seconds in which the members of a cluster that has lost its leader have another one."""

REDETECT = 10.0
"""Seconds between two attempts to detect a layout, which takes a listing."""


class Reading:
    """What one cluster holds, from `begin` to `close`.

    `endpoints` is turned so that the one in use comes first, and `detected` is told which layout each prefix was found to have.
    """

    def __init__(
        self,
        origin: Origin,
        config: EtcdConfig,
        endpoints: deque[str],
        stats: ReadStats,
        *,
        session: Session,
        detected: dict[str, str],
    ) -> None:
        self._origin = origin
        self._config = config
        self._endpoints = endpoints
        self._stats = stats
        self._session = session
        self._detected = detected
        self._known = Known(origin, config)
        self._clock = asyncio.get_running_loop().time
        self._revisions = [0] * len(config.prefixes)
        """For each prefix, the revision up to which everything was applied."""
        self._fragments: dict[int, list[rpc.Event]] = {}
        self._compactions = 0
        self._detected_at = float("-inf")
        self._detect_at: float | None = None

    async def begin(self) -> Snapshot:
        """Read everything, and begin to watch."""
        snapshot = await self.once()
        await self._session.watch(self._revisions)
        return snapshot

    async def once(self) -> Snapshot:
        """Read everything."""
        await self._list()
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.settle():
            await self._next()
        return self._known.take()

    async def close(self) -> None:
        """End every call and connection."""
        await self._session.close()

    async def _next(self) -> None:
        """Wait for one message, and deal with it."""
        try:
            message = await self._session.message(self._detect_at)
            if message is None:
                await self._list()
            else:
                self._apply(message)
        except RefusedError:
            raise
        except CompactedError as e:
            self._compactions += 1
            if self._compactions > LISTINGS:
                raise
            log.info("etcd.compacted", origin=self._origin.name, because=str(e))
            await self._list()
            await self._resume()
        except AdapterError as e:
            await self._fail_over(str(e))

    async def _fail_over(self, why: str) -> None:
        """Go on with the next member, or with the same one if there is no other."""
        if self._clock() - self._session.opened_at < self._config.heartbeat:
            raise AdapterError(why)  # a member that fails as soon as it is asked is not pursued
        self._stats.failed()
        await self._session.close()
        self._endpoints.rotate(-1)
        opened = self._session.position
        known = Position(opened.cluster, max(opened.revision, self._known.revision), opened.term)
        patience = ELECTION if len(self._endpoints) > 1 else 0.0
        self._session = await open_session(self._config, self._endpoints, self._stats, known, patience)
        await self._resume()
        log.info("etcd.failed_over", origin=self._origin.name, to=self._session.endpoint, because=why)

    async def _resume(self) -> None:
        self._fragments.clear()
        await self._session.watch(self._revisions)

    async def _list(self) -> None:
        """Make what is known what etcd holds at one revision."""
        revision = await self._list_all(LISTINGS)
        self._detect_at = None
        self._known.revision = max(self._known.revision, revision)
        self._revisions = [revision] * len(self._revisions)

    async def _list_all(self, attempts: int) -> int:
        """Every prefix, at one revision, which is returned."""
        revision = 0
        try:
            for n in range(len(self._revisions)):
                revision = await self._list_one(n, revision)
        except CompactedError:
            if attempts == 1:
                raise
            return await self._list_all(attempts - 1)
        return revision

    async def _list_one(self, n: int, revision: int) -> int:
        """One prefix, at a revision or the newest; returns the revision."""
        unread: list[Pair] = []
        listed: set[bytes] = set()
        async for page, at in self._session.pages(n, revision):
            revision = at
            listed.update(pair.key for pair in page)
            if self._known.undetected(n):
                unread += page  # which layout it is, shows when all is there
            else:
                self._put_all(n, page)
        if self._known.undetected(n):
            self._detect(n, unread)
            for start in range(0, len(unread), PAGE):
                self._put_all(n, unread[start : start + PAGE])
                await asyncio.sleep(0)
        for gone in set(self._known.keys(n)) - listed:
            self._known.delete(n, gone, revision)
        return revision

    def _put_all(self, n: int, pairs: list[Pair]) -> None:
        for pair in pairs:
            self._known.put(n, pair)
        self._known.settle()  # bit by bit, rather than all services in the end

    def _detect(self, n: int, pairs: list[Pair]) -> None:
        found = self._known.detect(n, pairs)
        self._detected_at = self._clock()
        prefix = self._config.prefixes[n].prefix
        if found.layout and self._detected.get(prefix) != found.layout:
            self._detected[prefix] = found.layout
            log.info(
                "etcd.layout_detected",
                origin=self._origin.name,
                prefix=prefix,
                layout=found.layout,
                sampled=found.sampled,
                explained=found.explained,
            )

    def _apply(self, message: rpc.WatchResponse) -> None:
        events = self._fragments.pop(message.watch_id, [])
        events.extend(message.events)
        if message.fragment:
            self._fragments[message.watch_id] = events  # the rest of the revision comes next
            return
        n = message.watch_id - 1
        news = [event for event in events if event.kv.mod_revision > self._revisions[n]]
        if not news:
            return
        self._stats.wake_up()
        self._compactions = 0
        for event in news:
            if event.type == rpc.Event.DELETE:
                self._known.delete(n, event.kv.key, event.kv.mod_revision)
            else:
                self._put(n, to_pair(event.kv))
        self._revisions[n] = news[-1].kv.mod_revision

    def _put(self, n: int, pair: Pair) -> None:
        self._known.put(n, pair)
        if self._known.undetected(n) and self._known.may_detect(n, pair):
            self._detect_at = max(self._clock(), self._detected_at + REDETECT)
