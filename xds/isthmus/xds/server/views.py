"""What each group of proxies is served, and when it changed."""

from __future__ import annotations

from isthmus.xds.resource import ResourceSnapshot

REMEMBERED_GENERATIONS = 256
"""Generations whose time of change is kept, to tell how old a change was when it was acknowledged."""


class View:
    """The latest snapshot of one group. Its generations are its own: a stream stays with the view that it began with."""

    def __init__(self, snapshot: ResourceSnapshot) -> None:
        self.snapshot = snapshot
        self._changed_at: dict[int, float] = {}
        self._note(snapshot)

    def update(self, snapshot: ResourceSnapshot) -> bool:
        """Take the next generation; returns whether it is one."""
        if snapshot is self.snapshot:
            return False
        self.snapshot = snapshot
        self._note(snapshot)
        return True

    def changed_between(self, first: int, last: int) -> float | None:
        """When the earliest change was read of those that some generations brought; None if nothing is known.

        One response may bring several.
        """
        oldest = max(first, last - REMEMBERED_GENERATIONS + 1)
        times = (self._changed_at.get(g) for g in range(oldest, last + 1))
        return min((t for t in times if t is not None), default=None)

    def _note(self, snapshot: ResourceSnapshot) -> None:
        if snapshot.changed_at is not None:
            self._changed_at[snapshot.generation] = snapshot.changed_at
            self._changed_at.pop(snapshot.generation - REMEMBERED_GENERATIONS, None)
