"""Waiting on a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(check: Callable[[], Awaitable[T]], what: str, timeout: float = ..., every: float = ...) -> T: ...
@overload
async def eventually(check: Callable[[], T], what: str, timeout: float = ..., every: float = ...) -> T: ...
async def eventually(check: Callable[[], object], what: str, timeout: float = 10, every: float = 0.02) -> object:
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
                return result
            last = result
        except (AssertionError, OSError, LookupError, ValueError) as e:
            last = e
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last: {last!r}")
        await asyncio.sleep(every)
