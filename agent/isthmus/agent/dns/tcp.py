"""DNS over TCP: messages with their length before them, several questions of one connection at once (RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

MAX_QUERY = 1232
"""Bytes of a question."""
MAX_CONNECTIONS = 128
MAX_PER_CONNECTION = 16
"""Questions of one connection that are open at once; it is not read further meanwhile."""
IDLE = 10.0
"""Seconds for which a connection may say nothing, or not read its answers."""

_GONE = (OSError, TimeoutError, asyncio.IncompleteReadError)


class Connections:
    """All connections to one DNS. `answer` makes of a question the bytes that are sent back, none for no answer."""

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]], on_refused: Callable[[], None]) -> None:
        self._answer = answer
        self._on_refused = on_refused
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a new connection; for `asyncio.start_server`."""
        if len(self._tasks) >= MAX_CONNECTIONS:
            self._on_refused()
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer), name="dns connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering: set[asyncio.Task[None]] = set()
        try:
            with contextlib.suppress(*_GONE):
                await self._read(reader, writer, answering)
            # Who has only stopped asking still waits for answers.
            await asyncio.gather(*answering)
            writer.close()
            with contextlib.suppress(*_GONE):
                async with asyncio.timeout(IDLE):
                    await writer.wait_closed()
        finally:
            for task in answering:
                task.cancel()
            writer.transport.abort()

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answering: set[asyncio.Task[None]]
    ) -> None:
        turns = asyncio.Semaphore(MAX_PER_CONNECTION)
        while True:
            await turns.acquire()
            async with asyncio.timeout(IDLE):
                size = int.from_bytes(await reader.readexactly(2))
                if size > MAX_QUERY:
                    return
                data = await reader.readexactly(size)
            task = asyncio.create_task(self._reply(data, writer, turns), name="dns answer")
            answering.add(task)
            task.add_done_callback(answering.discard)

    async def _reply(self, data: bytes, writer: asyncio.StreamWriter, turns: asyncio.Semaphore) -> None:
        answer = await self._answer(data)
        with contextlib.suppress(*_GONE):
            if answer:
                writer.write(len(answer).to_bytes(2) + answer)
                async with asyncio.timeout(IDLE):
                    await writer.drain()
            turns.release()
