"""What is known of one Eureka, and the snapshot made of it. Pure: the reading is in reading.py, the feed in feed.py.

Two layers. Below lies what was polled: a complete listing, mended by deltas, which repeat themselves and may be older than what
they are applied to. Above lie the changes that the feed brought: polls are answered from caches, so for a while they know less.
A change of the feed is put away when the polls agree with it, or when they have had time enough to and do not.

An absence is believed when it was seen to come about: a delta said DELETED, or the feed Cancel. An instance that a complete
listing lacks without that may be missing only because the server was just restarted, or is another one: then the snapshot is in
doubt until the instance is back, was seen to go, or has been missing for `DOUBT` seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.eureka.answers import Application, Entry, Lease, Record
from isthmus.registry.eureka.parse import Parsed, Rules, Sighting, parse_service
from isthmus.registry.eureka.replication import CANCEL, DELETE_STATUS_OVERRIDE, REGISTER, STATUS_UPDATE, Change
from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot

Key = tuple[str, str]
"""The application's name in capitals, and the instance's id."""

DOUBT = 120.0
"""Seconds. An instance that lives renews every 30 s, and registers anew with a server that does not know it; then there are
caches of 30 s, and some patience."""

FED = 120.0
"""Seconds for which a change of the feed outweighs polls that say otherwise: longer than a poll can be behind."""

MAX_FED = 50_000
"""Changes of the feed that are kept at once; more are refused, and polls bring them."""


class _Fed(msgspec.Struct, frozen=True):
    """What the feed said last of an instance; without a record, that it is gone."""

    record: Record | None
    at: float


class Listed(msgspec.Struct, frozen=True):
    """A complete listing, compared with what was polled before: `absent` are those that it lacks, `touched` are applications."""

    polled: dict[str, dict[str, Record]]
    leases: dict[Key, Lease]
    unreadable: dict[str, tuple[Quarantined, ...]]
    counts: Counter[str]
    overdue: dict[Key, float]
    absent: frozenset[Key]
    touched: frozenset[str]


class Known:
    """The instances that one server of a Eureka knows, and what of them no snapshot has shown yet.

    `expected` are the instances that were known before, from another server or an earlier reading. All `now` are monotonic
    seconds.
    """

    def __init__(self, origin: Origin, rules: Rules, server: str, expected: frozenset[Key] = frozenset()) -> None:
        self._origin = origin
        self._server = server
        self._rules = rules
        self._expected = expected
        self._polled: dict[str, dict[str, Record]] = {}
        self._counts: Counter[str] = Counter()
        self._unreadable: dict[str, tuple[Quarantined, ...]] = {}
        self._leases: dict[Key, Lease] = {}
        self._overdue: dict[Key, float] = {}
        self._fed: dict[str, dict[str, _Fed]] = {}
        self._fed_count = 0
        self._silent: set[Key] = set()
        self._missing: dict[Key, float] = {}
        self._doubt = ""
        self._parsed: dict[str, Parsed] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._touched: set[str] = set()
        self._changed: set[ServiceKey] = set()
        self._quarantine: tuple[Quarantined, ...] = ()
        self._remarked = False
        self._cursor = ""

    # What was polled.

    def heard_all(self, applications: Iterable[Application], hashcode: str, now: float, *, watched: bool) -> None:
        """A complete listing. `watched` says that what it lacks was seen to go, because there are no deltas to tell."""
        self.heard_listed(self.compared(applications), hashcode, now, watched=watched)

    def compared(self, applications: Iterable[Application]) -> Listed:
        """The better part of that, which may be done in a thread: it only reads, and only what polls alone change."""
        polled: dict[str, dict[str, Record]] = {}
        unreadable: dict[str, tuple[Quarantined, ...]] = {}
        leases: dict[Key, Lease] = {}
        for application in applications:
            for entry in application.entries:
                record = entry.record
                known = self._polled.get(record.app, {}).get(record.id)
                # A cached listing may be older than a delta that was applied since.
                newest = known if known and record.updated < known.updated else record
                polled.setdefault(record.app, {})[record.id] = newest
                leases[record.key] = entry.lease
            if application.unreadable:
                bad = unreadable.get(application.name, ())
                unreadable[application.name] = tuple(sorted((*bad, *self._quarantined(application))))
        return Listed(
            polled,
            leases,
            unreadable,
            counts=Counter(r.status for records in polled.values() for r in records.values()),
            overdue=overdue(leases),
            absent=frozenset((self._keys(self._polled) | self._expected) - self._keys(polled)),
            touched=frozenset(a for a in polled.keys() | self._polled.keys() if polled.get(a) != self._polled.get(a)),
        )

    def heard_listed(self, listed: Listed, hashcode: str, now: float, *, watched: bool) -> None:
        """The rest of it. No delta was heard in between."""
        polled = listed.polled
        self._missing = {(a, id_): at for (a, id_), at in self._missing.items() if id_ not in polled.get(a, {})}
        if not watched:
            for key in listed.absent:
                if key[1] not in self._fed.get(key[0], {}):
                    self._missing.setdefault(key, now)
        self._expected = frozenset()
        self._touched |= listed.touched
        self._set_unreadable(listed.unreadable)
        self._polled, self._leases, self._counts = polled, listed.leases, listed.counts
        self._set_overdue(listed.overdue)
        self._settle(hashcode, now)

    def heard_delta(self, applications: Iterable[Application], hashcode: str, now: float) -> bool:
        """What changed lately, some of it heard before; returns whether anything of it was new."""
        news = False
        for application in applications:
            for entry in application.entries:
                news |= self._apply(entry)
            bad = self._unreadable.get(application.name, ())
            if application.unreadable and set(found := self._quarantined(application)) - set(bad):
                self._set_unreadable(self._unreadable | {application.name: tuple(sorted({*bad, *found}))})
                news = True
        self._settle(hashcode, now)
        return news

    def _apply(self, entry: Entry) -> bool:
        record = entry.record
        records = self._polled.get(record.app, {})
        known = records.get(record.id)
        if entry.action == "DELETED":
            was_missing = self._missing.pop(record.key, None) is not None
            if known is None or record.updated < known.updated:
                return was_missing
            self._counts[known.status] -= 1
            del records[record.id]
            if not records:
                del self._polled[record.app]
            self._leases.pop(record.key, None)
            self._overdue.pop(record.key, None)
        else:
            if known is not None and (record.updated < known.updated or record == known):
                return False
            self._missing.pop(record.key, None)
            if known is not None:
                self._counts[known.status] -= 1
            self._counts[record.status] += 1
            self._polled.setdefault(record.app, {})[record.id] = record
            self._leases[record.key] = entry.lease
            self._overdue.pop(record.key, None)  # whatever changes, lives
        self._touched.add(record.app)
        return True

    def agrees(self, hashcode: str) -> bool:
        """Whether as many polled instances have each status as the server says (`UP_3_`).

        Equal counts prove nothing; different ones prove that something was missed, unless instances could not be read.
        """
        if self._unreadable:
            return True
        return hashcode == "".join(f"{status}_{count}_" for status, count in sorted(self._counts.items()) if count)

    def lacking(self, applications: Iterable[Application]) -> list[Key]:
        """Of the instances that a delta tells of, those that are not known from polls, or not as they are now."""
        found = []
        for application in applications:
            for entry in application.entries:
                record = entry.record
                known = self._polled.get(record.app, {}).get(record.id)
                if entry.action != "DELETED" and (known is None or known.updated < record.updated):
                    found.append(record.key)
        return found

    # What the feed brought.

    def heard_change(self, change: Change, now: float) -> bool:
        """A change of the feed; returns False when the whole instance is needed to understand it."""
        key = change.key
        known = self.record(key)
        if change.action == CANCEL:
            if known is not None:
                self._feed(key, None, now)
            self._missing.pop(key, None)
            return True
        if change.action == REGISTER:
            if change.entry is None:
                return False
            if known is not None and change.entry.record.dirty < known.dirty:
                return True  # the instance itself has said something newer since
            self._leases[key] = change.entry.lease
            self._missing.pop(key, None)
            self._feed(key, change.entry.record, now)
            return True
        if known is None or change.dirty > known.dirty:
            return False
        if change.action in (STATUS_UPDATE, DELETE_STATUS_OVERRIDE):
            overridden = change.status if change.overrides else "UNKNOWN"
            self._feed(key, msgspec.structs.replace(known, status=change.status, overridden=overridden), now)
        return True  # a heartbeat lifts nothing, whatever status it brings

    @property
    def full(self) -> bool:
        """Whether no further change of the feed can be kept."""
        return self._fed_count >= MAX_FED

    def set_silent(self, keys: frozenset[Key]) -> None:
        """Which instances have missed their heartbeats."""
        for app, _ in keys ^ self._silent:
            self._touched.add(app)
        self._silent = set(keys)

    def take_over(self, other: Known) -> None:
        """Take from another what no listing shows: the feed's changes, missed heartbeats, what was overdue at its last one."""
        self._fed = {app: dict(said) for app, said in other._fed.items()}
        self._fed_count = other._fed_count
        self._silent = set(other._silent)
        self._overdue = dict(other._overdue)
        self._touched.update(self._polled, self._fed)

    def _feed(self, key: Key, record: Record | None, now: float) -> None:
        if record is None or record != self.record(key):
            self._touched.add(key[0])
        fed = self._fed.setdefault(key[0], {})
        self._fed_count += key[1] not in fed
        fed[key[1]] = _Fed(record, now)

    def _settle(self, hashcode: str, now: float) -> None:
        """After each poll: put away what the feed said and is now known anyway, and the doubts that are over."""
        self._cursor = f"{self._server} {hashcode}".rstrip()
        for app, said in list(self._fed.items()):
            polled = self._polled.get(app, {})
            left = {
                id_: fed
                for id_, fed in said.items()
                if now - fed.at <= FED and not _says_the_same(polled.get(id_), fed.record)
            }
            if len(left) < len(said):
                self._fed_count -= len(said) - len(left)
                self._touched.add(app)
                self._fed[app] = left
            if not left:
                del self._fed[app]
        self._missing = {key: since for key, since in self._missing.items() if now - since <= DOUBT}
        doubt = ""
        if self._missing:
            doubt = self._doubt or (
                f"the listing of {self._server} lacks {len(self._missing)} of the instances known before, and nothing was seen "
                f"to remove them: the server may be new and incomplete; they are kept for {DOUBT:.0f} s"
            )
        if doubt != self._doubt:
            self._doubt, self._remarked = doubt, True

    # What the reading asks.

    def record(self, key: Key) -> Record | None:
        """The latest that is known of an instance; None when it is not known or gone."""
        app, id_ = key
        fed = self._fed.get(app, {}).get(id_)
        return fed.record if fed is not None else self._polled.get(app, {}).get(id_)

    def lease(self, key: Key) -> Lease:
        return self._leases.get(key, Lease())

    @property
    def unexplained(self) -> bool:
        """Whether a listing lacks instances that were not seen to go."""
        return bool(self._missing)

    @property
    def keys(self) -> frozenset[Key]:
        """All instances that are known, and those that are missing and not believed to be gone."""
        fed = {(app, id_): f.record for app, said in self._fed.items() for id_, f in said.items()}
        gone = {key for key, record in fed.items() if record is None}
        return frozenset((self._keys(self._polled) | fed.keys() | self._missing.keys() | self._expected) - gone)

    @property
    def empty(self) -> bool:
        """Whether there is no instance at all."""
        return not self._polled and not self._fed

    # What the consumer gets.

    @property
    def news(self) -> bool:
        """Whether anything differs from the last snapshot taken."""
        self.parse(len(self._touched))
        return bool(self._changed) or self._remarked

    def take(self) -> Snapshot:
        """All of it. `changed` names what differs from the snapshot taken before."""
        self.parse(len(self._touched))
        changed = frozenset(self._changed)
        self._changed.clear()
        if self._remarked:
            quarantined = [q for parsed in self._parsed.values() for q in parsed.quarantined]
            quarantined += [q for bad in self._unreadable.values() for q in bad]
            self._quarantine = tuple(sorted(quarantined))
            self._remarked = False
        return Snapshot(
            origin=self._origin,
            services=dict(self._services),
            cursor=self._cursor,
            changed=changed,
            quarantined=self._quarantine,
            doubt=self._doubt,
        )

    def parse(self, limit: int) -> bool:
        """Make services of so many applications that were touched; returns whether there are more."""
        for _ in range(limit):
            if not self._touched:
                break
            app = self._touched.pop()
            latest = dict(self._polled.get(app, {}))
            for id_, fed in self._fed.get(app, {}).items():
                if fed.record is None:
                    latest.pop(id_, None)
                else:
                    latest[id_] = fed.record
            self._replace(app, self._service(app, latest))
        return bool(self._touched)

    def _service(self, app: str, records: Mapping[str, Record]) -> Parsed:
        sightings = [
            Sighting(record, self._overdue.get(record.key, 0.0), record.key in self._silent)
            for record in records.values()
        ]
        return parse_service(self._origin, app, sightings, self._rules)

    def _replace(self, app: str, new: Parsed) -> None:
        old = self._parsed.pop(app, Parsed(None))
        if new != Parsed(None):
            self._parsed[app] = new
        if old.service != new.service:
            for service in (old.service, new.service):
                if service is not None:
                    self._changed.add(service.key)
                    self._services.pop(service.key, None)
            if new.service is not None:
                self._services[new.service.key] = new.service
        self._remarked |= old.quarantined != new.quarantined

    def _set_overdue(self, found: Mapping[Key, float]) -> None:
        found = found if self._rules.taper else {}
        for app, _ in dict(found.items() ^ self._overdue.items()):
            self._touched.add(app)
        self._overdue = dict(found)

    def _set_unreadable(self, unreadable: Mapping[str, tuple[Quarantined, ...]]) -> None:
        self._remarked |= unreadable != self._unreadable
        self._unreadable = dict(unreadable)

    def _quarantined(self, application: Application) -> tuple[Quarantined, ...]:
        return tuple(sorted(Quarantined(self._origin.name, where, why) for where, why in application.unreadable))

    @staticmethod
    def _keys(polled: Mapping[str, Mapping[str, Record]]) -> set[Key]:
        return {(app, id_) for app, records in polled.items() for id_ in records}


def overdue(leases: Mapping[Key, Lease]) -> dict[Key, float]:
    """For how many of its lease's durations each instance has not renewed, for those that are behind by more than one.

    All leases are from one listing. It may come from a cache, and servers add the duration to the time of a renewal, so that no
    clock tells the age of one. The newest renewal among leases of the same duration does: it is what "now" was for the server.
    Instances that never renewed are left out, because their time has no duration added.
    """
    renewed = {key: lease for key, lease in leases.items() if lease.renewed and lease.renewed != lease.registered}
    newest: dict[int, int] = {}
    for lease in renewed.values():
        newest[lease.duration] = max(lease.renewed, newest.get(lease.duration, lease.renewed))
    behind = {key: (newest[lease.duration] - lease.renewed) / 1000 / lease.duration for key, lease in renewed.items()}
    return {key: round(durations, 1) for key, durations in behind.items() if durations > 1}


def _says_the_same(polled: Record | None, fed: Record | None) -> bool:
    if polled is None or fed is None:
        return polled is fed
    return msgspec.structs.replace(polled, updated=fed.updated) == fed
