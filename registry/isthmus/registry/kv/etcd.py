"""etcd's keys as a store. The version of a key is the revision that wrote it."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.etcd.api import RefusedError
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.known import Pair
from isthmus.registry.etcd.proto import rpc_pb2 as rpc
from isthmus.registry.etcd.session import Position, Session, open_session, to_pair
from isthmus.registry.kv.config import EtcdStoreConfig, folder
from isthmus.registry.kv.edge import UNCOUNTED, Entry, StoreError, View, check_count, check_key, check_value

T = TypeVar("T")


class EtcdStore:
    """Keys below a prefix. `close()` it in the end."""

    def __init__(self, config: EtcdStoreConfig) -> None:
        self._config = config
        self._prefix = folder(config.prefix)
        self.where = f"etcd at {', '.join(config.endpoints)}"
        # Not every bridge should begin with the same member.
        self._endpoints = deque(random.sample(config.endpoints, len(config.endpoints)))
        self._session: Session | None = None
        self._opening = asyncio.Lock()

    async def get(self, key: str) -> Entry | None:
        """What a key has."""
        check_key(key)
        pair = await self._ask(lambda session: session.get(self._name(key)))
        return None if pair is None else _entry(pair)

    async def read(self, folder: str, stats: ReadStats = UNCOUNTED) -> View:
        """Everything below a folder."""
        check_key(folder)
        async with self._opened(self._config.connection(f"{folder}/"), stats) as session:
            entries, revision = await self._list(folder, session)
        return View(entries, str(revision))

    async def watch(self, folder: str, stats: ReadStats = UNCOUNTED) -> AsyncGenerator[View, None]:
        """Everything below a folder, at first and whenever it differs."""
        check_key(folder)
        async with self._opened(self._config.connection(f"{folder}/"), stats) as session:
            entries, revision = await self._list(folder, session)
            await session.watch([revision])
            yield View(entries, str(revision))
            events: list[rpc.Event] = []
            while True:
                message = await session.message(None)
                if message is None:
                    continue
                events.extend(message.events)
                if message.fragment:
                    continue  # the rest of the revision comes next
                news = [event for event in events if event.kv.mod_revision > revision]
                events = []
                if not news:
                    continue
                stats.wake_up()
                entries = self._applied(folder, entries, news)
                check_count(self.where, folder, len(entries))
                revision = news[-1].kv.mod_revision
                yield View(entries, str(revision))

    async def put(self, key: str, value: bytes, expected: str) -> str | None:
        """Write a key that has the expected version."""
        check_key(key)
        check_value(self.where, key, value)
        name = self._name(key)
        answer = await self._change(name, expected, rpc.RequestOp(request_put=rpc.PutRequest(key=name, value=value)))
        return str(answer.header.revision) if answer.succeeded else None

    async def delete(self, key: str, expected: str) -> bool:
        """Delete a key that has the expected version."""
        check_key(key)
        if not expected:
            return False
        name = self._name(key)
        operation = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=name))
        return (await self._change(name, expected, operation)).succeeded

    async def close(self) -> None:
        """End every connection."""
        if self._session is not None:
            await self._session.close()

    def _name(self, key: str) -> bytes:
        return (self._prefix + key).encode()

    async def _change(self, name: bytes, expected: str, operation: rpc.RequestOp) -> rpc.TxnResponse:
        compare = rpc.Compare(
            result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=name, mod_revision=int(expected or 0)
        )
        request = rpc.TxnRequest(compare=[compare], success=[operation])
        return await self._ask(lambda session: session.transaction(request))

    async def _ask(self, question: Callable[[Session], Awaitable[T]]) -> T:
        """The answer of the member in use, or else of another one. A change that was made at the first attempt is not expected
        at the second one, and so is told as one that was not: whoever tries again reads first."""
        with self._named():
            for last in (False, True):
                session = await self._in_use()
                try:
                    return await question(session)
                except RefusedError:
                    raise
                except AdapterError:
                    await self._drop(session)
                    if last:
                        raise
        raise AssertionError("unreachable")

    async def _in_use(self) -> Session:
        async with self._opening:
            if self._session is None:
                self._session = await open_session(self._config.connection(), self._endpoints, UNCOUNTED, Position())
            return self._session

    async def _drop(self, session: Session) -> None:
        if self._session is session:
            self._session = None
            self._endpoints.rotate(-1)
            await session.close()

    @asynccontextmanager
    async def _opened(self, config: EtcdConfig, stats: ReadStats) -> AsyncGenerator[Session]:
        with self._named():
            session = await open_session(config, self._endpoints.copy(), stats, Position())
            try:
                yield session
            finally:
                await session.close()

    async def _list(self, folder: str, session: Session) -> tuple[dict[str, Entry], int]:
        entries: dict[str, Entry] = {}
        revision = 0
        async for page, at in session.pages(0, 0):
            revision = at
            entries |= {self._below(folder, pair.key): _entry(pair) for pair in page}
            check_count(self.where, folder, len(entries))
        return entries, revision

    def _applied(self, folder: str, entries: dict[str, Entry], events: list[rpc.Event]) -> dict[str, Entry]:
        after = dict(entries)
        for event in events:
            name = self._below(folder, event.kv.key)
            if event.type == rpc.Event.DELETE:
                after.pop(name, None)
            else:
                after[name] = _entry(to_pair(event.kv))
        return after

    def _below(self, folder: str, key: bytes) -> str:
        return key.decode(errors="replace").removeprefix(f"{self._prefix}{folder}/")

    @contextmanager
    def _named(self) -> Generator[None]:
        try:
            yield
        except StoreError:
            raise
        except AdapterError as e:
            raise StoreError(f"store {e}") from None


def _entry(pair: Pair) -> Entry:
    return Entry(pair.value, str(pair.revision))
