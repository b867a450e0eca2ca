"""Blocking queries as Consul and Nomad answer them: when there is something newer than was seen, or the wait is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from bench.registry.web import Request

LONGEST = 600.0
DEFAULT = 300.0


class Blocked:
    """The index of one table, or of one part of it, and who waits for a newer one. `answer` tells a request all there is."""

    def __init__(self, index: int, answer: Callable[[Request], None]) -> None:
        self.index = index
        self._answer = answer
        self._waiting: dict[Request, asyncio.TimerHandle] = {}

    def ask(self, request: Request) -> None:
        """Answer now or later."""
        seen = int(request.query.get("index", 0))
        if not seen or self.index > seen:
            self._answer(request)
            return
        wait = min(_seconds(request.query.get("wait", "")) or DEFAULT, LONGEST)
        # https://developer.hashicorp.com/consul/api-docs/features/blocking: up to a sixteenth is added
        later = asyncio.get_running_loop().call_later(wait * random.uniform(1, 17 / 16), self._over, request)
        self._waiting[request] = later

    def move(self, index: int) -> None:
        """Something changed at this index: whoever waits is told."""
        self.index = index
        waiting, self._waiting = self._waiting, {}
        for request, timer in waiting.items():
            timer.cancel()
            if not request.gone:
                self._answer(request)

    def _over(self, request: Request) -> None:
        del self._waiting[request]
        if not request.gone:
            self._answer(request)


def _seconds(wait: str) -> float:
    """`10000ms` or `10s`."""
    if wait.endswith("ms"):
        return int(wait[:-2]) / 1000
    return float(wait.removesuffix("s") or 0)
