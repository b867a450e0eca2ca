"""What is known of one Consul, service by service, and the snapshot made of it. Pure: the reading is in reading.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from isthmus.registry.consul.answers import Listing
from isthmus.registry.consul.parse import Parsed, Rules, cannot_be_asked_for, instance_id, parse_service
from isthmus.registry.consul.sidecar import Sidecar, paired
from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot

INDEXES = 2048
"""How many of the indexes that services had are remembered, to explain what the list of services does."""

RIGHTS = 'the token needs service_prefix "" and node_prefix "" read'

FILTERED = f"Consul's ACLs hide it, or instances of it, from this token: {RIGHTS}"
LIST_FILTERED = f"Consul's ACLs hide services from this token: {RIGHTS}"
ANONYMOUS = "Consul denies by default and no token is configured: it shows nothing that it does not show to anyone"


Registered = Mapping[tuple[str, str], int]
"""What is on one node: by the service's name and the instance's id the index at which it was registered last."""


class _Read(msgspec.Struct, frozen=True):
    """The last answer about one service. `index` is what its next blocking query sends."""

    key: ServiceKey
    parsed: Parsed
    index: int
    changed_at: float
    filtered: bool


class ListChange(msgspec.Struct, frozen=True):
    """How a list of names differs from the one before it.

    `gone` do not exist any more, `missing` are to be asked for, since ACLs filtered the list, and `touched` are new or have
    other tags.
    """

    gone: frozenset[str]
    missing: frozenset[str]
    touched: frozenset[str]


class Known:
    """The list of services and the last answer about each, and what of it no snapshot has shown yet.

    `missing` are the services that were listed once and are not any more by a list that ACLs filtered. Each stays as it was until
    it is asked for by its name: then it is gone, or hidden, which is a doubt for as long as it lasts. `formerly` are the names
    that an earlier reading knew.
    """

    def __init__(self, origin: Origin, rules: Rules, formerly: frozenset[str] = frozenset()) -> None:
        self._origin = origin
        self._rules = rules
        self.names: Mapping[str, frozenset[str]] = {}
        self.missing = formerly
        self.list_index = 0
        self._list_filtered: bool | None = False
        self._unaskable: tuple[Quarantined, ...] = ()
        self._reads: dict[str, _Read] = {}
        self._quarantined: dict[str, tuple[Quarantined, ...]] = {}
        """By the service in whose answer they stood, where there were any."""
        self._filtered: dict[str, ServiceKey] = {}
        """Services whose last answer ACLs had filtered."""
        self._indexes: dict[int, None] = {}
        self._sidecars: dict[str, dict[str, frozenset[Sidecar]]] = {}
        """By the service before which they stand, and then by their own service."""
        self._services: dict[ServiceKey, Service] = {}
        self._changed: set[ServiceKey] = set()
        self._remarked = False

    # What Consul said.

    def heard_list(self, names: Mapping[str, frozenset[str]], index: int, filtered: bool | None) -> ListChange:
        """The list of services; what is not in it is forgotten, or missing where ACLs filtered it."""
        unaskable = {name: reason for name in names if (reason := cannot_be_asked_for(name))}
        quarantined = tuple(
            Quarantined(self._origin.name, f"service {n!r}", why) for n, why in sorted(unaskable.items())
        )
        before = self.names
        self.names = {name: tags for name, tags in names.items() if name not in unaskable}
        if (quarantined, filtered) != (self._unaskable, self._list_filtered):
            self._unaskable, self._list_filtered, self._remarked = quarantined, filtered, True
        self.list_index = index
        vanished = self.missing.union(before) - self.names.keys()
        missing_before = self.missing
        self.missing = vanished if filtered else frozenset()
        gone = vanished - self.missing
        for name in gone:
            self._forget(name)
        touched = frozenset(n for n, tags in self.names.items() if before.get(n) != tags)
        return ListChange(gone, self.missing - missing_before, touched)

    def heard_service(self, name: str, listing: Listing, index: int, filtered: bool | None, now: float) -> bool:
        """An answer about one service; returns whether it says anything new. Ignored when nobody asks for the service."""
        if not self.wanted(name):
            return False
        self._indexes[index] = None
        if len(self._indexes) > INDEXES:
            del self._indexes[next(iter(self._indexes))]
        if name in self.missing and filtered is False and not listing.entries and not listing.unreadable:
            self.missing -= {name}
            self._forget(name)
            return True
        parsed = parse_service(self._origin, name, listing, self._rules)
        before = self._reads.get(name)
        new = before is None or before.parsed != parsed
        changed_at = now if before is None or new else before.changed_at
        was_filtered = before is not None and before.filtered
        after = _Read(
            self._key(name, parsed, before), parsed, index, changed_at, was_filtered if filtered is None else filtered
        )
        self._reads[name] = after
        _keep(self._quarantined, name, parsed.quarantined)
        _keep(self._filtered, name, after.key if after.filtered else None)
        self._replace(name, before.parsed if before else Parsed(None), parsed)
        if after.filtered != was_filtered:
            self._changed.add(after.key)
        return new

    def _key(self, name: str, parsed: Parsed, before: _Read | None) -> ServiceKey:
        if parsed.service is not None:
            return parsed.service.key
        return before.key if before else ServiceKey(self._rules.namespace, name)

    def _forget(self, name: str) -> None:
        read = self._reads.pop(name, None)
        self._quarantined.pop(name, None)
        self._filtered.pop(name, None)
        if read is not None:
            self._replace(name, read.parsed, Parsed(None))
            if read.filtered:
                self._changed.add(read.key)

    def _replace(self, name: str, old: Parsed, new: Parsed) -> None:
        if old.service != new.service:
            if old.service is not None and (new.service is None or old.service.key != new.service.key):
                del self._services[old.service.key]
                self._changed.add(old.service.key)
            self._show(name)
        for destination in {s.destination for s in old.sidecars ^ new.sidecars}:
            self._sidecars.setdefault(destination, {})[name] = frozenset(
                s for s in new.sidecars if s.destination == destination
            )
            self._show(destination)
        self._remarked |= old.quarantined != new.quarantined

    def _show(self, name: str) -> None:
        """Put the service into the next snapshot as it is now, with the sidecars before it."""
        read = self._reads.get(name)
        if read is None or read.parsed.service is None:
            return
        sidecars = (s for some in self._sidecars.get(name, {}).values() for s in some)
        service = paired(read.parsed.service, sidecars)
        if self._services.get(service.key) != service:
            self._services[service.key] = service
            self._changed.add(service.key)

    # What the reading asks.

    @property
    def complete(self) -> bool:
        """Whether every listed service was read at least once, and every missing one was asked for."""
        return len(self._reads) == len(self.names) + len(self.missing)

    def wanted(self, name: str) -> bool:
        """Whether there is a reason to ask for the service of this name."""
        return name in self.names or name in self.missing

    def is_to_be_confirmed(self, name: str, listing: Listing) -> bool:
        """Whether an answer that does not tell if it was filtered is not to be taken as it is.

        It lacks an instance that is known, or the answer before it was filtered.
        """
        read = self._reads.get(name)
        if read is None:
            return False
        known = read.parsed.service.instances if read.parsed.service else ()
        return read.filtered or not {i.id for i in known} <= {instance_id(e) for e in listing.entries}

    def index(self, name: str) -> int:
        """The index of the last answer about this service; 0 if it was never read, or ACLs had filtered that answer."""
        read = self._reads.get(name)
        return read.index if read and not read.filtered else 0

    def changed_at(self, name: str) -> float:
        """The second at which an answer about this service last said anything new; long ago if it was never read."""
        read = self._reads.get(name)
        return read.changed_at if read else float("-inf")

    def by_liveliness(self, names: Iterable[str]) -> list[str]:
        """Services first that can be called, among these the ones first that changed last in Consul."""
        read = [(self._reads[n].parsed.service is not None, self._reads[n].index, n) for n in names if n in self._reads]
        return [n for _, _, n in sorted(read, reverse=True)]

    def with_checks(self, services: frozenset[str], nodes: frozenset[str]) -> frozenset[str]:
        """The services whose checks these are: their own, and those of the nodes that they have instances on."""
        if not nodes:
            return services
        return services | {n for n, read in self._reads.items() if read.parsed.is_on(nodes)}

    def behind(self, registered: Registered) -> frozenset[str]:
        """The services that have an instance among these which was registered after the last answer about them."""
        return frozenset(
            name for (name, _), index in registered.items() if self.wanted(name) and index > self.index(name)
        )

    def lacking(self, nodes: Mapping[str, Registered]) -> frozenset[str]:
        """The services that have an instance on one of these nodes where none is registered any more."""
        return frozenset(
            name
            for name, read in self._reads.items()
            for i in (read.parsed.service.instances if read.parsed.service else ())
            if (on := nodes.get(i.provenance["node"])) is not None and (name, i.provenance["service_id"]) not in on
        )

    def explained(self, before: int, index: int) -> tuple[bool, bool]:
        """Whether the move of the list between two indexes is known to be due to services that were read.

        First: the last change is, since some service was read with that index. Second: so are all others, since each index in
        between, which is one write to Consul, is a service's. Writes of other kinds count as unexplained, since nobody can tell.
        """
        return index in self._indexes, all(i in self._indexes for i in range(before + 1, index + 1))

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
        quarantined = [q for some in self._quarantined.values() for q in some]
        return Snapshot(
            origin=self._origin,
            services=dict(self._services),
            cursor=str(self.list_index),
            changed=changed,
            quarantined=tuple(sorted((*quarantined, *self._unaskable))),
            doubt=ANONYMOUS if self._list_filtered is None else "",
            doubts=dict.fromkeys(self._filtered.values(), FILTERED),
            unlisted=LIST_FILTERED if self._list_filtered else "",
        )


_T = TypeVar("_T")


def _keep(kept: dict[str, _T], name: str, value: _T | None) -> None:
    """Keep a value under a name, if there is one."""
    if value:
        kept[name] = value
    else:
        kept.pop(name, None)
