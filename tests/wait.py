"""Waiting on a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], T | Awaitable[T]], what: str, timeout: float = 10, every: float = 0.02) -> T:
    """The first true result of `check`; an AssertionError naming `what` and the last result when the deadline passes.

    An exception of `check` (a server that does not answer yet) counts as false.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result  # type: ignore[return-value]
            last = result
        except (AssertionError, OSError, LookupError, ValueError) as e:
            last = e
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last: {last!r}")
        await asyncio.sleep(every)
