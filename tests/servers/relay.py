"""A TCP relay in front of a server: a test can cut it, slow it down, or let it fall silent with its connections open."""

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
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._refusing = False
        self._pause = 0.0
        self._most: int | None = None

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
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def cut(self) -> None:
        """End the connections that there are, and every new one at once."""
        self._refusing = True
        await self.drop()

    def mend(self) -> None:
        """Undo `cut`, `stall`, `trickle` and `cut_after`."""
        self._refusing = False
        self._pause = 0.0
        self._most = None
        self._flowing.set()

    def redirect(self, to_port: int) -> None:
        """Carry the bytes of connections to come to another port."""
        self._to_port = to_port

    def stall(self) -> None:
        """Carry nothing more, in either direction, and end nothing."""
        self._flowing.clear()

    def trickle(self, pause: float) -> None:
        """Carry what the server says byte by byte, with so many seconds after each."""
        self._pause = pause

    def cut_after(self, most: int) -> None:
        """End each connection when the server has said so many bytes on it, from now on."""
        self._most = most

    def half_close(self) -> None:
        """Tell the clients that nothing more will come, and go on listening to them."""
        for writer in self._connections.values():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._carry(reader, writer)
        del self._connections[task]
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        pumps = [
            asyncio.create_task(self._ask(reader, there_writer)),
            asyncio.create_task(self._answer(there_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            there_writer.transport.abort()

    async def _ask(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while chunk := await self._next(client):
            server.write(chunk)
            await server.drain()

    async def _answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        said = 0
        while chunk := await self._next(server):
            while chunk:
                size = 1 if self._pause else len(chunk)
                if self._most is not None:
                    size = min(size, self._most - said)
                    if size <= 0:
                        return
                client.write(chunk[:size])
                await client.drain()
                said, chunk = said + size, chunk[size:]
                if self._pause:
                    await asyncio.sleep(self._pause)

    async def _next(self, source: asyncio.StreamReader) -> bytes:
        chunk = await source.read(65536)
        await self._flowing.wait()
        return chunk
