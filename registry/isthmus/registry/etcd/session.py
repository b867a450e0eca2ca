"""One member of the cluster at a time: found, checked, listed from, watched, and tested for life while it is silent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.etcd.api import Member, TooLargeError, Watch
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.known import Pair
from isthmus.registry.etcd.proto import rpc_pb2 as rpc

PAGE = 500
"""Keys of one page, and so of what is read before others have their turn of the event loop."""


ROUND = 0.2
"""Seconds between two rounds through all members."""


class RestoredError(AdapterError):
    """What answers is not the continuation of what was known. What is missing from it was not seen to go."""


class Position(msgspec.Struct, frozen=True):
    """How far a cluster was followed; all 0 at the beginning."""

    cluster: int = 0
    revision: int = 0
    term: int = 0


async def open_session(
    config: EtcdConfig, endpoints: deque[str], stats: ReadStats, after: Position, patience: float = 0.0
) -> Session:
    """Find a member that answers for its whole cluster, and that goes on from `after`.

    All are asked again until `patience` seconds are over. `endpoints` is turned so that the one in use comes first.

    Raises:
        RestoredError: a member answered that is of another cluster, or that knows less.
        AdapterError: none answered.

    """
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    while True:
        failures: list[str] = []
        for _ in range(len(endpoints)):
            try:
                return await _open(config, endpoints[0], stats, after)
            except RestoredError:
                endpoints.rotate(-1)
                raise
            except AdapterError as e:
                failures.append(str(e))
                endpoints.rotate(-1)
        if clock() >= until:
            raise AdapterError("; ".join(failures))
        await asyncio.sleep(ROUND)


async def _open(config: EtcdConfig, endpoint: str, stats: ReadStats, after: Position) -> Session:
    member = Member(config, endpoint, stats)
    try:
        await member.sign_in()
        key, end = range_of(config.prefixes[0].prefix)
        header = (await member.range(rpc.RangeRequest(key=key, range_end=end, limit=1, keys_only=True))).header
        _check(endpoint, header, after)
    except BaseException:
        await member.close()
        raise
    stats.alive()
    position = Position(header.cluster_id, max(after.revision, header.revision), header.raft_term)
    return Session(config, endpoint, member, stats, position)


def _check(endpoint: str, header: rpc.ResponseHeader, after: Position) -> None:
    if after.cluster and header.cluster_id != after.cluster:
        raise RestoredError(
            f"etcd at {endpoint}: it belongs to cluster {header.cluster_id:x}, not to {after.cluster:x} as before: it was "
            "restored or made anew, or the endpoints are of several clusters"
        )
    # The answer was linearizable, so that a member that merely lags behind would have waited until it knows as much.
    if (header.revision, header.raft_term) < (after.revision, 0) or header.raft_term < after.term:
        raise RestoredError(
            f"etcd at {endpoint}: its revision is {header.revision} in term {header.raft_term}, and {after.revision} in "
            f"term {after.term} is known: a backup was restored; everything is listed again"
        )


class Session:
    """A member that has answered. Made by `open_session`; `close()` it in the end."""

    def __init__(self, config: EtcdConfig, endpoint: str, member: Member, stats: ReadStats, position: Position) -> None:
        self.endpoint = endpoint
        self.position = position
        """How far its cluster was when it first answered."""
        self._config = config
        self._member = member
        self._stats = stats
        self._ranges = [range_of(p.prefix) for p in config.prefixes]
        self._page = PAGE
        self._watch: Watch | None = None
        self._clock = asyncio.get_running_loop().time
        self.opened_at = self._heard_at = self._clock()
        self._asked_at: float | None = None

    async def close(self) -> None:
        """End every call and the connection."""
        if self._watch is not None:
            await self._watch.close()
        await self._member.close()

    async def get(self, key: bytes) -> Pair | None:
        """One key, as the whole cluster has it."""
        answer = await self._member.range(rpc.RangeRequest(key=key))
        return to_pair(answer.kvs[0]) if answer.kvs else None

    async def transaction(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        """Compare, and then write one or the other."""
        return await self._member.transaction(request)

    async def pages(self, prefix: int, revision: int) -> AsyncIterator[tuple[list[Pair], int]]:
        """All keys of one prefix, by its position in the configuration, at a revision, 0 for the newest; and the revision."""
        key, end = self._ranges[prefix]
        while True:
            request = rpc.RangeRequest(key=key, range_end=end, limit=self._page, revision=revision)
            try:
                answer = await self._member.range(request)
            except TooLargeError:
                if self._page == 1:
                    raise
                self._page = max(1, self._page // 10)
                continue
            revision = revision or answer.header.revision
            yield [to_pair(kv) for kv in answer.kvs], revision
            if not answer.more or not answer.kvs:
                return
            key = answer.kvs[-1].key + b"\0"

    async def watch(self, revisions: Sequence[int]) -> None:
        """Watch every prefix from its revision on, which is told once more, on one new stream.

        etcd 3.6 gives no sign of life to a watch that begins with a revision that is still to come.
        """
        if self._watch is not None:
            await self._watch.close()
        self._watch = self._member.watch()
        await self._watch.create(
            rpc.WatchCreateRequest(key=key, range_end=end, start_revision=revisions[n], watch_id=n + 1, fragment=True)
            for n, (key, end) in enumerate(self._ranges)
        )
        self._heard_at = self._asked_at = self._clock()  # it has to say that the watches are there

    async def message(self, until: float | None) -> rpc.WatchResponse | None:
        """The next message of the stream; None when it is `until`, a second of the loop's clock.

        Raises:
            CompactedError: a revision to watch from is no longer there.
            AdapterError: the stream has ended, or the member is silent although it was asked.

        """
        if self._watch is None:
            raise RuntimeError("watch() comes before message()")
        while True:
            reading = self._watch.reading()
            due = self._silent_until()
            wake = due if until is None else min(due, until)
            await asyncio.wait({reading}, timeout=max(0.0, wake - self._clock()))
            if reading.done():
                return self._heard(await self._watch.take())
            now = self._clock()
            if until is not None and now >= until:
                return None
            if now < due:
                continue
            if self._asked_at is not None:
                silence = f"no sign of life for {now - self._heard_at:.1f} s, also when asked"
                raise AdapterError(f"etcd at {self.endpoint}: Watch: {silence}")
            self._asked_at = now
            await self._watch.ask_progress()

    def _silent_until(self) -> float:
        """When silence has to be acted upon."""
        if self._asked_at is None:
            return self._heard_at + self._config.heartbeat
        return self._asked_at + self._config.answer_within

    def _heard(self, message: rpc.WatchResponse) -> rpc.WatchResponse:
        if message.canceled:
            raise self._member.canceled(message)
        self._heard_at = self._clock()
        self._asked_at = None
        self._stats.alive()
        return message


def range_of(prefix: str) -> tuple[bytes, bytes]:
    """The key and the range end that stand for every key with this prefix."""
    key = prefix.encode()
    for position in range(len(key) - 1, -1, -1):
        if key[position] < 0xFF:
            return key, key[:position] + bytes([key[position] + 1])
    return key or b"\0", b"\0"


def to_pair(kv: rpc.KeyValue) -> Pair:
    return Pair(kv.key, kv.value, kv.mod_revision, kv.lease == 0)
