"""What is known of one Consul, service by service, and the snapshot made of it. Pure: the reading is in reading.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.consul.answers import Listing
from isthmus.registry.consul.parse import Parsed, Rules, cannot_be_asked_for, parse_service
from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot


class _Read(msgspec.Struct, frozen=True):
    """The last answer about one service. `index` is what its next blocking query sends."""

    parsed: Parsed
    index: int
    changed_at: float
    doubt: str


class ListChange(msgspec.Struct, frozen=True):
    """How a list of names differs from the one before it; `touched` are new or have other tags."""

    gone: frozenset[str]
    touched: frozenset[str]


class Known:
    """The list of services and the last answer about each, and what of it no snapshot has shown yet."""

    def __init__(self, origin: Origin, rules: Rules) -> None:
        self._origin = origin
        self._rules = rules
        self.names: Mapping[str, frozenset[str]] = {}
        self._list_index = 0
        self._list_doubt = ""
        self._unaskable: tuple[Quarantined, ...] = ()
        self._reads: dict[str, _Read] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._changed: set[ServiceKey] = set()
        self._remarked = False

    # What Consul said.

    def heard_list(self, names: Mapping[str, frozenset[str]], index: int, doubt: str) -> ListChange:
        """The list of services; whatever is not in it is forgotten."""
        unaskable = {name: reason for name in names if (reason := cannot_be_asked_for(name))}
        quarantined = tuple(
            Quarantined(self._origin.name, f"service {n!r}", why) for n, why in sorted(unaskable.items())
        )
        before = self.names
        self.names = {name: tags for name, tags in names.items() if name not in unaskable}
        if (quarantined, doubt) != (self._unaskable, self._list_doubt):
            self._unaskable, self._list_doubt, self._remarked = quarantined, doubt, True
        self._list_index = index
        gone = frozenset(before.keys() - self.names.keys())
        for name in gone & self._reads.keys():
            self._replace(self._reads.pop(name).parsed, Parsed(None))
        return ListChange(gone, frozenset(n for n, tags in self.names.items() if before.get(n) != tags))

    def heard_service(self, name: str, listing: Listing, index: int, doubt: str, now: float) -> bool:
        """An answer about one service; returns whether it says anything new. Ignored when the service is not listed."""
        if name not in self.names:
            return False
        parsed = parse_service(self._origin, name, listing, self._rules)
        before = self._reads.get(name)
        new = before is None or before.parsed != parsed
        changed_at = now if before is None or new else before.changed_at
        self._reads[name] = _Read(parsed, index, changed_at, doubt)
        self._replace(before.parsed if before else Parsed(None), parsed)
        self._remarked |= doubt != (before.doubt if before else "")
        return new

    def _replace(self, old: Parsed, new: Parsed) -> None:
        if old.service != new.service:
            if old.service is not None:
                self._services.pop(old.service.key, None)
                self._changed.add(old.service.key)
            if new.service is not None:
                self._services[new.service.key] = new.service
                self._changed.add(new.service.key)
        self._remarked |= old.quarantined != new.quarantined

    # What the reading asks.

    @property
    def complete(self) -> bool:
        """Whether every listed service was read at least once."""
        return len(self._reads) == len(self.names)

    def index(self, name: str) -> int:
        return self._reads[name].index

    def changed_at(self, name: str) -> float:
        """The second at which an answer about this service last said anything new; long ago if it was never read."""
        read = self._reads.get(name)
        return read.changed_at if read else float("-inf")

    def by_liveliness(self, names: Iterable[str]) -> list[str]:
        """Services first that can be called, among these the ones first that changed last in Consul."""
        read = [(self._reads[n].parsed.service is not None, self._reads[n].index, n) for n in names if n in self._reads]
        return [n for _, _, n in sorted(read, reverse=True)]

    def on_nodes(self, nodes: frozenset[str]) -> frozenset[str]:
        """The services that have an instance on any of these nodes."""
        if not nodes:
            return frozenset()
        return frozenset(n for n, read in self._reads.items() if not nodes.isdisjoint(read.parsed.nodes))

    def explained(self, before: int, index: int) -> tuple[bool, bool]:
        """Whether the move of the list between two indexes is known to be due to services that were read.

        First: the last change is, since some service has that index. Second: so are all others, since each index in between,
        which is one write to Consul, is a service's. Writes of other kinds count as unexplained, since nobody can tell.
        """
        indexes = {read.index for read in self._reads.values() if before < read.index <= index}
        return index in indexes, len(indexes) == index - before

    # What the consumer gets.

    @property
    def news(self) -> bool:
        """Whether anything differs from the last snapshot taken."""
        return bool(self._changed) or self._remarked

    def take(self) -> Snapshot:
        """All of it. `changed` names what differs from the snapshot taken before."""
        changed = frozenset(self._changed)
        self._changed.clear()
        self._remarked = False
        quarantined = [q for read in self._reads.values() for q in read.parsed.quarantined]
        return Snapshot(
            origin=self._origin,
            services=dict(self._services),
            cursor=str(self._list_index),
            changed=changed,
            quarantined=tuple(sorted((*quarantined, *self._unaskable))),
            doubt=self._list_doubt or next((r.doubt for r in self._reads.values() if r.doubt), ""),
        )
