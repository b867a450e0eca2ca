"""What is known of the workloads, and the snapshot made of it: what did not change is not read again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.kv.edge import Entry, View
from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot
from isthmus.registry.reuse import reuse
from isthmus.registry.workloads.parse import to_service
from isthmus.registry.workloads.record import RecordError, Workload, parse_workload


class _Read(msgspec.Struct, frozen=True):
    version: str
    workload: Workload | None
    reason: str


class Known:
    """The workloads of one store, view by view."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._read: dict[str, _Read] = {}
        self._members: dict[ServiceKey, dict[str, Workload]] = {}
        self._services: Mapping[ServiceKey, Service] = {}
        self._remarks: dict[ServiceKey, tuple[tuple[str, str], ...]] = {}
        self._shown: Snapshot | None = None

    def take(self, view: View) -> Snapshot | None:
        """The snapshot of a view, the first one without a hint; None if it says what the one before it said."""
        touched: set[ServiceKey] = set()
        for id_ in self._read.keys() - view.entries.keys():
            touched |= self._forget(id_)
        for id_, entry in view.entries.items():
            before = self._read.get(id_)
            if before is None or before.version != entry.version:
                touched |= self._forget(id_) | self._learn(id_, entry)
        changed = self._shape(touched)
        quarantined = tuple(sorted(self._quarantined()))
        if self._shown is not None and not changed and quarantined == self._shown.quarantined:
            return None
        hint = None if self._shown is None else frozenset(changed)
        self._shown = Snapshot(self._origin, self._services, view.cursor, hint, quarantined)
        return self._shown

    def _learn(self, id_: str, entry: Entry) -> set[ServiceKey]:
        try:
            workload = parse_workload(id_, entry.value)
        except RecordError as e:
            self._read[id_] = _Read(entry.version, None, str(e))
            return set()
        self._read[id_] = _Read(entry.version, workload, "")
        key = ServiceKey(workload.namespace, workload.service)
        self._members.setdefault(key, {})[id_] = workload
        return {key}

    def _forget(self, id_: str) -> set[ServiceKey]:
        before = self._read.pop(id_, None)
        if before is None or before.workload is None:
            return set()
        key = ServiceKey(before.workload.namespace, before.workload.service)
        self._members[key].pop(id_, None)
        return {key}

    def _shape(self, touched: Iterable[ServiceKey]) -> set[ServiceKey]:
        """Make these services anew; returns those that differ."""
        services = dict(self._services)
        changed: set[ServiceKey] = set()
        for key in touched:
            before = services.get(key)
            self._remarks.pop(key, None)
            if not (members := self._members[key]):
                del self._members[key]
                services.pop(key, None)
                after = None
            else:
                made, remarks = to_service(list(members.values()), self._origin.name)
                after = services[key] = reuse(before, made)
                if remarks:
                    self._remarks[key] = remarks
            if after is not before:
                changed.add(key)
        if changed:
            self._services = services
        return changed

    def _quarantined(self) -> Iterable[Quarantined]:
        name = self._origin.name
        for id_, read in self._read.items():
            if read.workload is None:
                yield Quarantined(name, f"workload {id_}", read.reason)
        for remarks in self._remarks.values():
            for id_, reason in remarks:
                yield Quarantined(name, f"workload {id_}", reason)
