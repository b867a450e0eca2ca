"""The catalog of a benchmark in a real etcd: one key per instance, in Kitex' layout, written by whoever measures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Self

import aiohttp
import msgspec

PREFIX = "kitex/registry-etcd/"
PORT = 8080
_OPERATIONS = 128
"""Writes that etcd takes in one transaction."""


class Population(msgspec.Struct, frozen=True):
    """`services` of `instances` each, all at addresses of their own."""

    services: int
    instances: int

    def pairs(self, weight: int = 10) -> Iterator[tuple[str, str]]:
        """Every key, and what it says if all have one weight."""
        return (self.pair(s, i, weight) for s in range(self.services) for i in range(self.instances))

    def pair(self, service: int, instance: int, weight: int = 10, protocol: str = "http") -> tuple[str, str]:
        """The key of one instance, and what it says then. Instances beyond those there are have addresses too."""
        number = (service * self.instances + instance) % (self.services * self.instances)
        net = 10 + instance // self.instances
        address = f"{net}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:{PORT}"
        value: dict[str, object] = {"network": "tcp", "address": address, "weight": weight}
        if protocol != "http":
            value["tags"] = {"protocol": protocol}
        return f"{PREFIX}{name(service)}/{address}", json.dumps(value)


def name(service: int) -> str:
    """The name of a service."""
    return f"service-{service:05}"


class Keys:
    """A writer with a connection of its own that stays open: `async with Keys(address)`."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self._address, timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def put(self, key: str, value: str) -> None:
        """Write one key."""
        await self._call("/v3/kv/put", _put(key, value))

    async def replace(self, old: str, key: str, value: str) -> None:
        """Delete one key and write another, in one revision."""
        operations = [{"requestPut": _put(key, value)}, {"requestDeleteRange": {"key": _base64(old)}}]
        await self._call("/v3/kv/txn", {"success": operations})

    async def fill(self, population: Population) -> None:
        """Make it all that there is."""
        end = PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)
        await self._call("/v3/kv/deleterange", {"key": _base64(PREFIX), "range_end": _base64(end)})
        await self.put_all(population.pairs())

    async def put_all(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write many keys, a transaction of them after the other."""
        for some in _batches(pairs):
            await self._call("/v3/kv/txn", {"success": [{"requestPut": _put(*pair)} for pair in some]})

    async def _call(self, path: str, body: object) -> None:
        async with self._session.post(path, json=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(f"etcd {path}: {answer.status} {text[:300]}")


def _put(key: str, value: str) -> dict[str, str]:
    return {"key": _base64(key), "value": _base64(value)}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _batches(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    rest = iter(pairs)
    while batch := list(islice(rest, _OPERATIONS)):
        yield batch
