"""A TCP relay in front of a server: a test can cut it, or let it fall silent with its connections open."""

from __future__ import annotations

import asyncio
import contextlib


class Relay:
    """Listens on a port of 127.0.0.1 and carries bytes to and from another one."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._refusing = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection and listen no more."""
        if self._server is not None:
            self._server.close()
        await self.drop()

    async def drop(self) -> None:
        """End the connections that there are."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def cut(self) -> None:
        """End the connections that there are, and every new one at once."""
        self._refusing = True
        await self.drop()

    def mend(self) -> None:
        """Undo `cut` and `stall`."""
        self._refusing = False
        self._flowing.set()

    def redirect(self, to_port: int) -> None:
        """Carry the bytes of connections to come to another port."""
        self._to_port = to_port

    def stall(self) -> None:
        """Carry nothing more, in either direction, and end nothing."""
        self._flowing.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._carry(reader, writer)
        self._connections.discard(task)
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        pumps = [
            asyncio.create_task(self._pump(reader, there_writer)),
            asyncio.create_task(self._pump(there_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            there_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while True:
            chunk = await source.read(65536)
            await self._flowing.wait()
            if not chunk:
                return
            sink.write(chunk)
            await sink.drain()
