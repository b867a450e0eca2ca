"""A store whose requests are counted."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager

from isthmus.registry.adapter import ReadStats
from isthmus.registry.kv.edge import UNCOUNTED, Entry, Store, StoreError, View


class MeasuredStore:
    """Another store, and how it does."""

    def __init__(self, store: Store) -> None:
        self.where = store.where
        self.requests = 0
        """Answered, with what was asked for or otherwise; what a watch brings is one each time."""
        self.errors = 0
        self.up = False
        """Whether the last request was answered."""
        self.last_success: float | None = None
        """Seconds since 1970."""
        self._store = store

    async def get(self, key: str) -> Entry | None:
        with self._counted():
            return await self._store.get(key)

    async def read(self, folder: str, stats: ReadStats = UNCOUNTED) -> View:
        with self._counted():
            return await self._store.read(folder, stats)

    async def watch(self, folder: str, stats: ReadStats = UNCOUNTED) -> AsyncGenerator[View, None]:
        async with aclosing(self._store.watch(folder, stats)) as views:
            while True:
                try:
                    with self._counted():
                        view = await anext(views)
                except StopAsyncIteration:
                    return
                yield view

    async def put(self, key: str, value: bytes, expected: str) -> str | None:
        with self._counted():
            return await self._store.put(key, value, expected)

    async def delete(self, key: str, expected: str) -> bool:
        with self._counted():
            return await self._store.delete(key, expected)

    async def close(self) -> None:
        await self._store.close()

    @contextmanager
    def _counted(self) -> Generator[None]:
        try:
            yield
        except StoreError:
            self.errors += 1
            self.up = False
            raise
        self.requests += 1
        self.up = True
        self.last_success = time.time()
