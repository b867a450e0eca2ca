"""Programs that take orders as lines of JSON on standard input, and answer each with lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

PATIENCE = 150.0
"""Seconds for one answer; longer than the proxies themselves are patient, so that it is they who say what is missing."""
_LONGEST = 64 << 20


class Program:
    """One such program, from `async with` to its end. What it writes to standard error is kept in `log`."""

    def __init__(self, argv: Sequence[str | Path], log: Path) -> None:
        self._argv = [str(word) for word in argv]
        self._log = log

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LONGEST,
                cwd=Path(__file__).parents[2],
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def order(self, order: Mapping[str, Any]) -> Any:
        """Give an order; returns the first answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        """The next answer.

        Raises:
            RuntimeError: the program has ended, or is silent; with its last words.

        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise RuntimeError(f"{self._argv[0]} did not answer within {PATIENCE:g} s") from None
        if not line:
            last = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self._argv)[:200]} ended: {last}")
        return json.loads(line)
