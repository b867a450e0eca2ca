"""The workloads in the bridge's store as an origin, whichever bridge wrote them there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from isthmus.registry.adapter import ReadStats
from isthmus.registry.kv.edge import Store
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.workloads.known import Known
from isthmus.registry.workloads.record import FOLDER


class WorkloadsAdapter:
    """What registered with any bridge that has this store."""

    def __init__(self, origin: Origin, store: Store, stats: ReadStats) -> None:
        self.origin = origin
        self._store = store
        self._stats = stats

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Everything that is registered, first whole and then at each change (`isthmus.registry.adapter.Adapter`).

        Raises:
            AdapterError: the store could not be read.

        """
        known = Known(self.origin)
        async with aclosing(self._store.watch(FOLDER, self._stats)) as views:
            async for view in views:
                if (snapshot := known.take(view)) is not None:
                    yield snapshot

    async def listing(self) -> Snapshot:
        """Everything that is registered, read anew.

        Raises:
            AdapterError: the store could not be read.

        """
        snapshot = Known(self.origin).take(await self._store.read(FOLDER, self._stats))
        if snapshot is None:
            raise RuntimeError("the first view of any is a snapshot")
        return msgspec.structs.replace(snapshot, changed=None)
