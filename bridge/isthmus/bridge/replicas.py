"""The replicas of this bridge that have the same store: which of them live, and of whose workloads they have heard.

Each writes a record of its own (`replicas/NAME`) every few seconds while it watches over workloads. No clock is compared with
another one's: a replica lives while its record keeps changing.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing

import msgspec
import structlog

from isthmus.registry.adapter import AdapterError
from isthmus.registry.kv.edge import Store, View

log = structlog.get_logger()

FOLDER = "replicas"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 5.0


class _Presence(msgspec.Struct, frozen=True):
    """What a replica says: that it lives, and of which workloads, which others watch over, it has heard since it said so last."""

    beat: int
    heard: list[str] = []


class _Peer(msgspec.Struct):
    version: str
    seen: float


_presence = msgspec.json.Decoder(_Presence)


class Replicas:
    """All of them, as one sees it, whose name is `name`. `on_heard` is called with what others have heard of."""

    def __init__(self, store: Store, name: str, on_heard: Callable[[Iterable[str]], None]) -> None:
        self.name = name
        self._store = store
        self._on_heard = on_heard
        self._peers: dict[str, _Peer] = {}
        self._began = time.monotonic()
        self.followed = False
        """Whether what the others say arrives."""
        self._beat = secrets.randbelow(1 << 48)  # not what an earlier process of this name has said last

    async def run(self) -> None:
        """Follow the others, until cancelled."""
        await follow(self._store, FOLDER, self._take, self._lost)

    def silent(self, bridges: Collection[str], now: float, period: float) -> dict[str, float]:
        """Which of these give no sign of life, and since when. `period` is how often they should, in seconds."""
        patience = 3 * period + 5.0
        seen = {b: self._peers[b].seen if b in self._peers else self._began for b in bridges if b != self.name}
        return {bridge: at for bridge, at in seen.items() if now - at > patience}

    @property
    def others(self) -> bool:
        """Whether there is another one, alive or not."""
        return bool(self._peers.keys() - {self.name})

    async def say(self, heard: Collection[str]) -> None:
        """Give a sign of life.

        Raises:
            AdapterError: the store cannot be written.

        """
        self._beat += 1
        text = msgspec.json.encode(_Presence(self._beat, sorted(heard)))
        key = f"{FOLDER}/{self.name}"
        entry = await self._store.get(key)
        if await self._store.put(key, text, entry.version if entry else "") is None:
            log.warning("workloads.same_name", bridge=self.name)

    async def tidy(self, watching: Collection[str], now: float, period: float) -> None:
        """Delete the records of those that are silent and watch over nothing.

        Raises:
            AdapterError: the store cannot be written.

        """
        for bridge in self.silent(self._peers.keys() - watching, now, period):
            await self._store.delete(f"{FOLDER}/{bridge}", self._peers[bridge].version)

    def _lost(self) -> None:
        self.followed = False

    def _take(self, view: View, renewed: bool) -> None:
        self.followed = True
        now = time.monotonic()
        for name in self._peers.keys() - view.entries.keys():
            del self._peers[name]
        for name, entry in view.entries.items():
            peer = self._peers.get(name)
            if peer is None or peer.version != entry.version:
                self._peers[name] = _Peer(entry.version, now)
                try:
                    presence = _presence.decode(entry.value)
                except msgspec.MsgspecError:
                    continue  # of another release, perhaps; it lives
                if name != self.name:
                    self._on_heard(presence.heard)
            elif renewed:
                peer.seen = now  # nobody was seen while the store could not be read


async def follow(store: Store, folder: str, take: Callable[[View, bool], None], lost: Callable[[], None]) -> None:
    """Hand over each view of a folder, until cancelled, and whether it is the first one after an interruption.

    `lost` is called when one has begun.
    """
    failures = 0
    while True:
        renewed = True
        try:
            async with aclosing(store.watch(folder)) as views:
                async for view in views:
                    if failures:
                        log.info("workloads.followed_again", folder=folder)
                    failures = 0
                    take(view, renewed)
                    renewed = False
        except AdapterError as e:
            lost()
            if not failures:
                log.warning("workloads.not_followed", folder=folder, error=str(e))
            failures += 1
        wait = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**failures)
        await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - so that replicas do not come in step
