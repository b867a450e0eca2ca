"""One iteration of the adapter: list everything at one revision, then watch from the next one.

The listing is paged, and every page is of the same revision. From the revision after it, each prefix is watched on one common
stream; whole revisions of a prefix are applied at once. When the stream ends, another member is asked to go on from where each
prefix got to, which loses nothing. When etcd no longer has that revision (it was compacted), everything is listed again and
compared with what is known. When another cluster answers, or one whose revision is lower than what was heard, a backup was
restored: then this iteration ends, for what is missing from such an answer was not seen to go.

Silence is tested: a member has to answer a request for progress, and refuses it when it has no leader. And because watches of
several releases of etcd have lost events (etcd#18089), the revision of every key is compared now and then with what is known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import grpc.aio
import msgspec
import structlog

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.etcd.api import CompactedError, Member, TooLargeError, Watch
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.known import Known, Pair
from isthmus.registry.etcd.proto import rpc_pb2 as rpc
from isthmus.registry.model import Origin, Snapshot

log = structlog.get_logger()

PAGE = 1000
"""Keys of one page."""

LISTINGS = 3
"""Attempts to list everything before compaction overtakes."""

BATCH = 500
"""Keys that are read before others have their turn of the event loop."""


class Reading:
    """What one cluster holds, from `begin` to `close`. `endpoints` is turned so that the one to ask first comes first."""

    def __init__(self, origin: Origin, config: EtcdConfig, endpoints: deque[str], stats: ReadStats) -> None:
        self._origin = origin
        self._config = config
        self._endpoints = endpoints
        self._stats = stats
        self._known = Known(origin, config)
        self._clock = asyncio.get_running_loop().time
        self._ranges = [range_of(p.prefix) for p in config.prefixes]
        self._member: Member | None = None
        self._watch: Watch | None = None
        self._cluster = 0
        self._watched_from = 0.0
        self._revisions = [0] * len(self._ranges)
        """For each prefix, the revision up to which everything was applied."""
        self._fragments: dict[int, list[rpc.Event]] = {}
        self._asked_at: float | None = None
        self._heard_at = 0.0
        self._page = PAGE
        self._comparison: asyncio.Task[list[bytes]] | None = None
        self._compare_at = self._clock() + config.relist
        self._touched: set[bytes] = set()

    async def begin(self) -> Snapshot:
        """Read everything."""
        await self._connect()
        await self._list()
        await self._watch_all()
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.news:
            await self._next()
        return self._known.take()

    async def close(self) -> None:
        """End every call and connection."""
        if self._comparison is not None:
            self._comparison.cancel()
            await asyncio.gather(self._comparison, return_exceptions=True)
        await self._disconnect()

    # Members.

    async def _connect(self) -> None:
        """Find a member that answers for its cluster."""
        failures: list[str] = []
        for _ in range(len(self._endpoints)):
            member = Member(self._config, self._endpoints[0], self._stats)
            self._member = member
            try:
                await member.sign_in()
                key, end = self._ranges[0]
                answer = await member.range(rpc.RangeRequest(key=key, range_end=end, limit=1, keys_only=True))
            except AdapterError as e:
                failures.append(str(e))
                await self._disconnect()
                self._endpoints.rotate(-1)
                continue
            self._hear(answer.header)
            if answer.header.revision < self._known.revision:
                raise AdapterError(
                    f"etcd at {member.endpoint}: its revision is {answer.header.revision}, lower than the known "
                    f"{self._known.revision}: a backup was restored; everything is listed again"
                )
            return
        raise AdapterError("; ".join(failures))

    async def _disconnect(self) -> None:
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        if self._member is not None:
            await self._member.close()
            self._member = None

    async def _fail_over(self, why: str) -> None:
        """Go on with the next member, or the same one if there is no other."""
        if self._clock() - self._watched_from < self._config.heartbeat:
            raise AdapterError(why)  # a stream that ends each time it is opened is not pursued
        await self._end_comparison()
        await self._disconnect()
        self._stats.failed()
        self._endpoints.rotate(-1)
        await self._connect()
        await self._watch_all()
        log.info("etcd.failed_over", origin=self._origin.name, to=self._endpoints[0], because=why)
        self._compare_at = self._clock()  # a restored backup that has caught up with the revision would show here only

    def _hear(self, header: rpc.ResponseHeader) -> None:
        """A member answered: that proves life, unless it belongs to another cluster."""
        if self._cluster and header.cluster_id != self._cluster:
            raise AdapterError(
                f"etcd at {self._endpoints[0]}: it belongs to cluster {header.cluster_id:x}, not to {self._cluster:x} as "
                "before: it was restored or made anew, or the endpoints are of several clusters"
            )
        self._cluster = header.cluster_id
        self._heard_at = self._clock()
        self._asked_at = None
        self._stats.alive()

    # Listing.

    async def _list(self) -> None:
        """Make what is known what etcd holds at one revision."""
        for attempt in range(LISTINGS):
            try:
                pages = [[pair async for pair in self._pairs(n, keys_only=False)] for n in range(len(self._ranges))]
                break
            except CompactedError:
                if attempt == LISTINGS - 1:
                    raise
                self._revisions = [0] * len(self._ranges)
        for n, pairs in enumerate(pages):
            if self._known.undetected(n):
                self._detect(n, pairs)
            for gone in set(self._known.keys(n)).difference(pair.key for pair in pairs):
                self._known.delete(n, gone, self._revisions[n])
            for position, pair in enumerate(pairs):
                self._known.put(n, pair)
                if position % BATCH == 0:
                    await asyncio.sleep(0)
        self._known.revision = max(self._known.revision, *self._revisions)

    async def _pairs(self, n: int, *, keys_only: bool) -> AsyncIterator[Pair]:
        """All keys of one prefix, in order. The first page of all fixes the revision, unless only keys are wanted."""
        raise NotImplementedError
        yield
