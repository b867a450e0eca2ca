"""Lines of JSON between the benchmark and its processes: each command is one line, and so is each answer.

A process that reads such commands ends when there are no more: when whoever started it closes the pipe, or is gone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

LONGEST = 64 * 1024 * 1024


async def commands() -> AsyncIterator[dict[str, Any]]:
    """The commands on standard input."""
    reader = asyncio.StreamReader(limit=LONGEST)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield msgspec.json.decode(line)


def reply(**said: object) -> None:
    """One line on standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


class Child:
    """A process that takes commands. Lines with `event` are handed to `on_event`, all others answer the commands in turn."""

    def __init__(
        self, process: asyncio.subprocess.Process, what: str, on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        self._process = process
        self._what = what
        self._on_event = on_event
        # What it says unasked, when it is ready.
        self._greeting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting = [self._greeting]
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, module: str, *arguments: str, on_event: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> Child:
        """Run `python -m module arguments`."""
        pipe = asyncio.subprocess.PIPE
        argv = (sys.executable, "-m", module, *arguments)
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=LONGEST)
        return cls(process, " ".join((module, *arguments[:1])), on_event)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def greeting(self, within: float) -> dict[str, Any]:
        """What it says when it is ready. Raises RuntimeError like `ask`."""
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(self._greeting)
        except TimeoutError:
            raise RuntimeError(f"{self._what} is not ready within {within:g} s") from None

    async def ask(self, within: float = 30.0, **command: object) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            RuntimeError: the process has ended, or does not answer within so many seconds.

        """
        if self._process.stdin is None or self._reading.done():
            raise RuntimeError(f"{self._what} has ended")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise RuntimeError(f"{self._what} does not answer to {next(iter(command), '')} in {within:g} s") from None

    async def close(self) -> None:
        """End it."""
        self._reading.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = msgspec.json.decode(line)
            if "event" in said:
                self._on_event(said)
            else:
                self._waiting.pop(0).set_result(said)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(RuntimeError(f"{self._what} has ended"))
