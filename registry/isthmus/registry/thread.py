"""Work on many services, beside the loop: proxies and people are answered meanwhile.

What goes into a thread is a pure function of values. Its outcome is put in place on the loop, by whoever waited for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, TypeVarTuple

from isthmus.registry.model import Service, ServiceKey

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE = 1_200
"""Beyond this, work on services goes into a thread: a service counts 5, an instance 1. Each takes up to 15 us, all the way from
snapshot to resource; below, a thread would cost more than it gives."""
_SERVICE = 5


def is_large(changed: frozenset[ServiceKey] | None, *states: Mapping[ServiceKey, Service]) -> bool:
    """Whether what changed (None: all) is much, in any of the states before and after."""
    for services in states:
        size = 0
        for key in services if changed is None else changed:
            service = services.get(key)
            size += _SERVICE + (len(service.instances) if service else 0)
            if size > LARGE:
                return True
    return False


async def in_thread(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """What `asyncio.to_thread` does, but the end of the process does not wait for a thread whose outcome nobody wants.

    Whoever is cancelled here leaves the thread alone: it comes to its end, or ends with the process.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle: Callable[[], None] = partial(outcome.set_result, function(*arguments))
        except BaseException as e:
            settle = partial(outcome.set_exception, e)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_unless_done, outcome, settle)

    threading.Thread(target=run, name=getattr(function, "__name__", "work"), daemon=True).start()
    return await outcome


def _unless_done(outcome: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not outcome.done():  # who waited for it is cancelled
        settle()
