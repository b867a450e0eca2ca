"""An adapter that does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from isthmus.registry.adapter import AdapterError
from isthmus.registry.model import Origin, Snapshot


class ScriptedAdapter:
    """Yields what is said, raises what is failed; `lists` is what `listing()` answers."""

    def __init__(self, name: str = "consul") -> None:
        self.origin = Origin(name, "fake")
        self.lists: Snapshot | None = None
        self.iterations = 0
        self._script: asyncio.Queue[Snapshot | AdapterError] = asyncio.Queue()

    def say(self, snapshot: Snapshot) -> None:
        self._script.put_nowait(snapshot)

    def fail(self, text: str = "cannot be read") -> None:
        self._script.put_nowait(AdapterError(text))

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        self.iterations += 1
        while True:
            step = await self._script.get()
            if isinstance(step, AdapterError):
                raise step
            yield step

    async def listing(self) -> Snapshot:
        if self.lists is None:
            raise AdapterError("cannot be listed")
        return self.lists
