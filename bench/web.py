"""Both ends of the requests that go through Envoy: servers that name themselves, and a caller that never rests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

PAUSE = 0.001
"""Seconds between two requests: without it, the caller would take the CPU from what is being measured."""


class Instances:
    """HTTP servers whose answers are the addresses that they listen on."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def listen(self, addresses: Iterable[str], port: int) -> None:
        loop = asyncio.get_running_loop()
        for address in addresses:
            self._servers.append(await loop.create_server(_Instance, address, port))

    def close(self) -> None:
        for server in self._servers:
            server.close()


class _Instance(asyncio.Protocol):
    """One connection. Requests have no body, so that each ends with the first empty line."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        address = transport.get_extra_info("sockname")[0].encode()
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(address), address)
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        *requests, self._tail = (self._tail + data).split(b"\r\n\r\n")
        self._transport.write(self._answer * len(requests))


class Caller:
    """One connection to Envoy's outbound listener."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.requests = 0
        self.failed = 0

    async def until(self, host: str, address: str) -> float:
        """Ask again and again; the monotonic second at which this instance has answered for the first time."""
        while True:
            answered = await self._ask(host)
            if answered == address:
                return time.monotonic()
            await asyncio.sleep(PAUSE)

    async def _ask(self, host: str) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        self.requests += 1
        if not head.startswith("http/1.1 200"):
            self.failed += 1
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
