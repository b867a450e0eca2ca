"""The records of the workloads in the store, as one replica knows them, and when each was heard of last."""

from __future__ import annotations

import time

import msgspec
import structlog

from isthmus.bridge.silence import LONGEST_PERIOD, period
from isthmus.registry.kv.edge import Store, View
from isthmus.registry.workloads.record import FOLDER, RecordError, Workload, parse_workload, to_record

log = structlog.get_logger()


class Known(msgspec.Struct):
    """A record, the store's version of it, and the monotonic second at which the workload was heard of last."""

    workload: Workload
    version: str
    heard: float


class Records:
    """What the store has, as far as it is known here: by its watch, by what is written here, by what is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.by_id: dict[str, Known] = {}
        self.period = LONGEST_PERIOD
        """Seconds between two signs of life of a replica."""
        self.followed = False
        """Whether what is written by others arrives."""
        self.followed_since = float("-inf")

    async def find(self, id_: str) -> Known | None:
        """What is known of a workload, or else what the store has: another replica may have written it a moment ago."""
        return self.by_id.get(id_) or await self.fetch(id_)

    async def fetch(self, id_: str) -> Known | None:
        """What the store has of a workload. One that cannot be read is like one of epoch 0: whoever registers replaces it."""
        entry = await self._store.get(f"{FOLDER}/{id_}")
        if entry is None:
            self.by_id.pop(id_, None)
            return None
        try:
            workload = parse_workload(id_, entry.value)
        except RecordError as e:
            log.warning("workloads.unreadable", id=id_, reason=str(e))
            nobody = Workload(id=id_, service="", address="", ports={}, epoch=0)
            return Known(nobody, entry.version, time.monotonic())
        return self._learn(workload, entry.version)

    async def put(self, workload: Workload, expected: str) -> Known | None:
        """Write a record in the place of the version that is expected; None where there is another one."""
        version = await self._store.put(f"{FOLDER}/{workload.id}", to_record(workload), expected)
        return None if version is None else self._learn(workload, version)

    async def delete(self, known: Known) -> bool:
        """Delete a record, if it is as it is known. It is not known any more in any case."""
        id_ = known.workload.id
        deleted = await self._store.delete(f"{FOLDER}/{id_}", known.version)
        self.by_id.pop(id_, None)
        return deleted

    def lost(self) -> None:
        """The watch was interrupted."""
        self.followed = False

    def take(self, view: View, renewed: bool) -> None:
        """Take over what the watch has brought; `renewed` after an interruption."""
        self.followed = True
        if renewed:
            self.followed_since = time.monotonic()
        for id_ in self.by_id.keys() - view.entries.keys():
            del self.by_id[id_]
        for id_, entry in view.entries.items():
            known = self.by_id.get(id_)
            if known is None or known.version != entry.version:
                try:
                    self._learn(parse_workload(id_, entry.value), entry.version)
                except RecordError:
                    self.by_id.pop(id_, None)  # the registry names it
        self.period = period(known.workload.ttl for known in self.by_id.values())

    def _learn(self, workload: Workload, version: str) -> Known:
        """Whatever was written is a sign of life."""
        known = self.by_id[workload.id] = Known(workload, version, time.monotonic())
        self.period = min(self.period, period((workload.ttl,)))
        return known
