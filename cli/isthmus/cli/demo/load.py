"""Constant load: pages asked for through Envoy, at a fixed rate, every answer looked at."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import msgspec

from isthmus.cli.demo.bookinfo import BookinfoError, Mesh

_WORKERS = 8
_SECONDS_TO_FINISH = 10.0


class Page(msgspec.Struct, frozen=True):
    """One answer: which instances gave it, and how many milliseconds it took; or why there was none."""

    instances: tuple[str, ...]
    ms: float
    error: str = ""


class Load:
    """Asks for the product page `rate` times per second."""

    def __init__(self, mesh: Mesh, rate: float) -> None:
        self.rate = rate
        self.requests = 0
        self.failed = 0
        self.first_failure = ""
        self.recent: deque[Page] = deque(maxlen=50)
        self._mesh = mesh
        self._stopping = False
        self._next = 0.0
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._next = time.monotonic()
        self._workers = [asyncio.create_task(self._work(), name=f"load {i}") for i in range(_WORKERS)]

    async def stop(self) -> None:
        """Let the requests that are under way be answered, and end. Raises what a worker raised."""
        self._stopping = True
        if self._workers:
            await asyncio.wait(self._workers, timeout=_SECONDS_TO_FINISH)
        for worker in self._workers:
            worker.cancel()
        results = await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _work(self) -> None:
        while not self._stopping:
            now = time.monotonic()
            # A slot that all workers were too busy to take is not made up for: that would be a burst.
            at = max(self._next, now)
            self._next = at + 1 / self.rate
            await asyncio.sleep(at - now)
            if not self._stopping:
                await self._ask()

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            instances, error = _instances(await self._mesh.call("productpage", "/productpage")), ""
        except BookinfoError as e:
            instances, error = (), str(e)
        self.requests += 1
        self.recent.append(Page(instances, (time.monotonic() - began) * 1000, error))
        if error:
            self.failed += 1
            self.first_failure = self.first_failure or error


def _instances(page: dict[str, Any]) -> tuple[str, ...]:
    """Who answered, in the order of the calls. Raises BookinfoError when a part is missing."""
    try:
        reviews = page["reviews"]
        names = [page["instance"], page["details"]["instance"], reviews["instance"]]
        if reviews["version"] != "v1":
            names.append(reviews["ratings"]["instance"])
    except (KeyError, TypeError):
        raise BookinfoError("productpage: a part of the page is missing") from None
    return tuple(names)
