"""How one origin is doing: counted by its adapter, kept by its supervisor, read by status pages and metrics."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

from isthmus.registry.model import Origin, Quarantined

_STEP = 5
"""Seconds that are counted together in what was read during the last minute."""


@dataclasses.dataclass(slots=True)
class OriginStatus:
    """Counters and state of one origin. Times are seconds since the epoch, because they are read by people.

    Implements `isthmus.registry.adapter.ReadStats`.
    """

    origin: Origin
    address: str = ""
    synced: bool = False
    cursor: str = ""
    last_success: float | None = None
    stale_since: float | None = None
    error: str = ""
    doubt: str = ""
    """Why absence proves nothing, of everything or of `doubted` services, which the text names."""
    doubted: int = 0
    unlisted: str = ""
    """Why its listings may not name every service there is."""
    reads: int = 0
    errors: int = 0
    wake_ups: int = 0
    delays: int = 0
    """How often requests began to wait for `max_reads_per_minute`."""
    max_reads_per_minute: int | None = None
    max_connections: int | None = None
    """What it may be asked at most; None where there is no such limit."""
    audits: int = 0
    drift: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    feed: str = ""
    """How it is with its pushing changes to us (`isthmus.registry.eureka.liveness.FeedState`); empty where it is not asked to."""
    _recent: Counter[int] = dataclasses.field(default_factory=Counter)
    """Reads by step of the monotonic clock, those of the last minute only."""

    @property
    def reads_last_minute(self) -> int:
        """Requests that were answered during the last minute, to five seconds exactly."""
        self._forget()
        return self._recent.total()

    def read(self) -> None:
        """One request was answered with a usable result."""
        self.reads += 1
        self._recent[int(time.monotonic()) // _STEP] += 1
        if len(self._recent) > 60 // _STEP:
            self._forget()

    def failed(self) -> None:
        """One request failed."""
        self.errors += 1

    def wake_up(self) -> None:
        """A watch or blocking query came back because something changed."""
        self.wake_ups += 1

    def delayed(self) -> None:
        """Requests have begun to wait for the budget of reads."""
        self.delays += 1

    def alive(self) -> None:
        """The registry has just proved to be there and current."""
        self.last_success = time.time()

    def feed_is(self, state: str) -> None:
        """How it is with the registry's pushing changes to us."""
        self.feed = state

    def went_stale(self, text: str) -> None:
        """The origin cannot be read; what it said last is kept, and is stale from its last proof of life."""
        self.error = text
        if self.stale_since is None:
            self.stale_since = self.last_success if self.last_success is not None else time.time()

    def recovered(self) -> None:
        """A complete listing arrived."""
        self.alive()
        self.synced = True
        self.stale_since = None
        self.error = ""

    def went_back_to(self, saved_at: float) -> None:
        """What an earlier process saved is shown until the registry can be read."""
        self.last_success = self.stale_since = saved_at

    def audited(self, differences: int) -> None:
        """What the watches brought was compared with a complete listing."""
        self.audits += 1
        self.drift += differences

    def _forget(self) -> None:
        oldest = int(time.monotonic() - 60) // _STEP
        for step in [step for step in self._recent if step <= oldest]:
            del self._recent[step]
