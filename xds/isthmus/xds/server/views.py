"""What each group of proxies is served, and when it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot
from isthmus.xds.store import EMPTY

ENVOY_GROUP = ProxyGroup(Kind.ENVOY)
"""Whose view is served to every group that has none of its own."""

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
            while len(self._changed_at) > REMEMBERED_GENERATIONS:
                del self._changed_at[next(iter(self._changed_at))]


class Views:
    """The views of the groups that there are proxies of, taken from what is offered to all."""

    def __init__(self) -> None:
        self._offered: Mapping[ProxyGroup, ResourceSnapshot | None] = {}
        self._views: dict[ProxyGroup, View] = {}
        self.wanted = asyncio.Event()
        """Somebody has asked for a view that is still to be made."""

    def update(self, offered: Mapping[ProxyGroup, ResourceSnapshot | None], groups: Iterable[ProxyGroup]) -> set[View]:
        """Take what is offered now, for the groups that there are; returns the views that are other ones than before.

        Raises:
            ValueError: there is nothing for Envoys.

        """
        if offered.get(ENVOY_GROUP) is None:
            raise ValueError("no view for Envoys, which every other group may fall back to")
        before, self._views, self._offered = self._views, {}, offered
        self.wanted.clear()
        changed: set[View] = set()
        for group in {*groups, ENVOY_GROUP} & offered.keys():
            snapshot = offered[group]
            if snapshot is None:
                self.wanted.set()
                if group in before:
                    self._views[group] = before[group]
                continue
            view = self._views[group] = before.get(group) or View(snapshot)
            if view.update(snapshot):
                changed.add(view)
        return changed

    def of(self, group: ProxyGroup) -> View | None:
        """What a group is served; None as long as there is nothing, or it is still to be made."""
        if group not in self._views and group in self._offered:
            snapshot = self._offered[group]
            if snapshot is None:
                self.wanted.set()
                return None
            self._views[group] = View(snapshot)
        return self._views.get(group) or self._views.get(ENVOY_GROUP)

    @property
    def snapshots(self) -> list[ResourceSnapshot]:
        """All that is being served."""
        return [view.snapshot for view in self._views.values()]

    @property
    def envoy(self) -> ResourceSnapshot:
        """What Envoys are being served."""
        view = self._views.get(ENVOY_GROUP)
        return view.snapshot if view else EMPTY
