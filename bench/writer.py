"""Writes to Consul, over a connection that is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import aiohttp

from bench.population import Change

_TXN_LIMIT = 128
"""Operations that Consul takes in one transaction."""


class Writer:
    """The side that registers services."""

    def __init__(self, consul: str) -> None:
        self._session = aiohttp.ClientSession(consul, timeout=aiohttp.ClientTimeout(total=10))

    async def apply(self, change: Change) -> None:
        """Make one change. Raises ValueError when Consul refuses."""
        await self._put(change.path, change.body)

    async def apply_all(self, operations: Iterable[dict[str, Any]]) -> None:
        """Make many, in transactions as large as possible."""
        remaining = iter(operations)
        while batch := list(islice(remaining, _TXN_LIMIT)):
            await self._put("/v1/txn", json.dumps(batch).encode())

    async def close(self) -> None:
        await self._session.close()

    async def _put(self, path: str, body: bytes) -> None:
        async with self._session.put(path, data=body) as answer:
            said = await answer.read()
            if answer.status != 200:
                raise ValueError(f"PUT {path}: {answer.status} {said[:300]!r}")
