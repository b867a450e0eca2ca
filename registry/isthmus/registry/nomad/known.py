"""What is known of one Nomad, and the snapshot made of it. Pure: the reading is in reading.py.

Answers and events arrive in any order. Of one service the index decides, which both have: an event that an answer already
contains is skipped, and so is an answer that is older than an event. Allocations, nodes and jobs carry an index of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from isthmus.registry.model import Origin, Quarantined, Snapshot
from isthmus.registry.nomad.answers import Allocation, CheckResult, Job, Listing, Node, Registration, ServiceName
from isthmus.registry.nomad.facts import NOTHING, Facts, JobKey, Named
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.parse import Rules, cannot_be_asked_for
from isthmus.registry.nomad.shown import Shown
from isthmus.registry.nomad.spec import JobSpec, job_spec
from isthmus.registry.reuse import once

UUID_LENGTH = 36
"""To ask for an allocation by another id is an error in Nomad."""

K = TypeVar("K")


class Missing(msgspec.Struct, frozen=True):
    """Allocations that are in no list of those that run, nodes, and jobs."""

    allocs: set[str]
    nodes: set[str]
    jobs: set[JobKey]


class Known:
    """The registrations, and everything that their health is joined from; what of it no snapshot has shown yet."""

    def __init__(self, origin: Origin, rules: Rules, drain_limit: float, memory: Memory) -> None:
        self.facts = Facts(memory)
        self.shown = Shown(origin, rules, self.facts)
        self.polled: dict[str, str] = {}
        """The node by each allocation whose checks are to be asked for."""
        self.polled_anew: set[str] = set()
        """Allocations that have come to `polled` or left it; whoever asks takes them out."""
        self._origin = origin
        self._drain_limit = drain_limit
        self._memory = memory
        self._list_index = 0
        """Of the list of services: events up to it tell nothing new about services that are not listed."""
        self._cursor = 0
        self._remarks: dict[str, Quarantined] = {}
        self._unaskable: tuple[Quarantined, ...] = ()
        self._remarked = False
        self._namespaces: frozenset[str] = frozenset()
        self._by_alloc: dict[str, tuple[ServiceName, ...]] = {}
        self._by_node: dict[str, tuple[ServiceName, ...]] = {}
        self._by_job: dict[JobKey, tuple[ServiceName, ...]] = {}
        self._missing = Missing(set(), set(), set())
        for name, emptied in memory.emptied.items():
            for key in emptied.jobs:
                self._belongs(name, key)

    # What Nomad answered.

    def heard_list(self, names: frozenset[ServiceName], index: int, now: float) -> frozenset[ServiceName]:
        """The list of services; returns those to be asked for."""
        unaskable = {name: reason for name in names if (reason := cannot_be_asked_for(name))}
        self._unaskable = tuple(Quarantined(self._origin.name, str(n), why) for n, why in sorted(unaskable.items()))
        self._list_index = max(self._list_index, index)
        self._cursor = max(self._cursor, index)
        for name in self.facts.services.keys() - names:
            if self.facts.services[name].seen <= index:
                self._set(name, Named(index, index, {}), now)
        return names - unaskable.keys()

    def heard_service(self, name: ServiceName, listing: Listing, index: int, now: float) -> None:
        """An answer about one service; ignored when it is older than what is known."""
        before = self.facts.services.get(name)
        if before is None or before.seen <= index:
            registrations = {r.id: r for r in listing.registrations}
            self._set(name, Named(index, index, registrations, listing.unreadable), now)

    def heard_allocations(self, allocs: Iterable[Allocation], index: int) -> None:
        """The list of allocations that are not over; those that are missing from it are."""
        listed = {a.id: a for a in allocs}
        for alloc in listed.values():
            self.heard_allocation(alloc)
        for id_ in self.facts.allocs.keys() - listed.keys():
            if self.facts.allocs[id_].modify_index <= index:
                self.no_allocation(id_)

    def heard_allocation(self, alloc: Allocation) -> None:
        """One allocation, listed or from an event."""
        before = self.facts.allocs.get(alloc.id)
        if before is None:
            if alloc.terminal and alloc.id not in self._by_alloc:
                return
        elif alloc.modify_index < before.modify_index:
            return
        elif alloc.job_version is None:
            alloc = msgspec.structs.replace(alloc, job_version=before.job_version)
        self.facts.allocs[alloc.id] = alloc
        job = (alloc.namespace, alloc.job)
        spec = self.facts.jobs.get(job)
        if spec is not None and alloc.job_version is not None and alloc.job_version > spec.version:
            self._missing.jobs.add(job)
        if before != alloc:
            self.shown.touch(self._by_alloc.get(alloc.id, ()))
            self._choose_poll(alloc.id)
        if alloc.terminal:
            self._release(alloc.id)

    def no_allocation(self, id_: str) -> None:
        """Nomad does not know this allocation."""
        if self.facts.allocs.pop(id_, None) is not None:
            self.shown.touch(self._by_alloc.get(id_, ()))
        self._release(id_)

    def heard_node(self, node: Node) -> None:
        """One node, read or from an event."""
        before = self.facts.nodes.get(node.id)
        if before is None or before.modify_index <= node.modify_index:
            self.facts.nodes[node.id] = node
            if before != node:
                self.shown.touch(self._by_node.get(node.id, ()))

    def no_node(self, id_: str) -> None:
        """This node cannot be read."""
        self.facts.nodes.setdefault(id_, None)

    def heard_job(self, job: Job) -> None:
        """One job, read or from an event."""
        key = (job.namespace, job.id)
        before = self.facts.jobs.get(key)
        if before is None or before.modify_index <= job.modify_index:
            self._set_job(key, job_spec(job))

    def no_job(self, key: JobKey, index: int | None = None) -> None:
        """There is no such job, or it was stopped at this index."""
        spec = self.facts.jobs.get(key)
        if spec is None or index is None or spec.modify_index <= index:
            self._set_job(key, None)

    def heard_namespaces(self, names: frozenset[str]) -> bool:
        """The namespaces that the token sees; returns whether they are others than before."""
        changed = bool(self._namespaces) and names != self._namespaces
        had = self._memory.visible & {name.namespace for name in self._memory.emptied}
        invisible = (self._memory.invisible | had) - names
        self._remarked |= invisible != self._memory.invisible or bool(names) != bool(self._namespaces)
        self._memory.invisible = invisible
        self._memory.visible |= names
        self._namespaces = names
        return changed

    def heard_checks(self, alloc: str, results: tuple[CheckResult, ...]) -> None:
        """A client has said how the checks of an allocation are."""
        if alloc in self.polled and self._memory.heard_checks(alloc, results):
            self.shown.touch(self._by_alloc.get(alloc, ()))

    def silent(self, alloc: str, now: float) -> None:
        """A client did not say how the checks of an allocation are."""
        if alloc in self.polled:
            self._memory.silent(alloc, now)

    def remark(self, subject: str, reason: str) -> None:
        """Something that the operator should know, beside what is wrong with single services; empty: no more."""
        before = self._remarks.get(subject)
        after = Quarantined(self._origin.name, subject, reason) if reason else None
        if after is not None:
            self._remarks[subject] = after
        else:
            self._remarks.pop(subject, None)
        self._remarked |= before != after

    # What Nomad's events tell.

    def registered(self, registration: Registration, index: int, now: float) -> None:
        """An instance is new, or is registered otherwise than before."""
        name = ServiceName(registration.namespace, registration.service)
        before = self.facts.services.get(name, Named(self._list_index, 0, {}))
        if index <= before.answered or index < before.seen or cannot_be_asked_for(name):
            return
        if registration.id not in before.registrations:
            self._memory.starts_over(registration.alloc)
        registrations = {**before.registrations, registration.id: registration}
        self._set(name, Named(before.answered, index, registrations, before.unreadable), now)

    def deregistered(self, registration: Registration, index: int, now: float) -> None:
        """An instance is no longer registered."""
        name = ServiceName(registration.namespace, registration.service)
        before = self.facts.services.get(name)
        if before is None or index <= before.answered or index < before.seen:
            return
        registrations = {id_: r for id_, r in before.registrations.items() if id_ != registration.id}
        self._set(name, Named(before.answered, index, registrations, before.unreadable), now)

    # What the reading asks.

    @property
    def misses(self) -> bool:
        """Whether `missing` has anything."""
        return bool(self._missing.allocs or self._missing.nodes or self._missing.jobs)

    def missing(self) -> Missing:
        """What services depend on, is to be read, and was not returned here before."""
        missing, self._missing = self._missing, Missing(set(), set(), set())
        return Missing(missing.allocs - self.facts.allocs.keys(), missing.nodes, missing.jobs)

    def leaving(self) -> set[str]:
        """Allocations of instances that are deregistered and may still serve."""
        return {one.registration.alloc for _, one in self._memory.leaving()}

    def has_unreadable(self, name: ServiceName) -> bool:
        """Whether some registrations of a service could not be read: events do not tell which of them are mended."""
        named = self.facts.services.get(name)
        return named is not None and bool(named.unreadable)

    def is_waiting(self, alloc: str) -> bool:
        """Whether the checks of an allocation have not all been seen to pass, so that an answer is awaited."""
        checked = self._memory.checked.get(alloc)
        if checked is None or checked.results is None:
            return True
        return any(r.status == "pending" for r in checked.results)

    def expire(self, now: float) -> None:
        """Let go of departed instances whose time is over, and doubt clients that have been silent for long."""
        for name, one in self._memory.leaving():
            alloc = self.facts.allocs.get(one.registration.alloc)
            if one.until <= now or alloc is None or alloc.terminal:
                self._gone(name, one.registration)
        for id_ in self.polled:
            checked = self._memory.checked.get(id_)
            if checked is not None and checked.counts_less(now):
                self.shown.touch(self._by_alloc.get(id_, ()))

    # What the consumer gets.

    def has_news(self, now: float) -> bool:
        """Whether anything differs from the last snapshot taken."""
        self.shown.build(now)
        return bool(self.shown.changed) or self.shown.requarantined or self._remarked

    def take(self, now: float) -> Snapshot:
        """All of it. `changed` names what differs from the snapshot taken before."""
        self.shown.build(now)
        changed = frozenset(self.shown.changed)
        self.shown.changed.clear()
        self.shown.requarantined = self._remarked = False
        return Snapshot(
            origin=self._origin,
            services=dict(self.shown.services),
            cursor=str(self._cursor),
            changed=changed,
            quarantined=tuple(sorted((*self.shown.quarantined, *self._unaskable, *self._remarks.values()))),
            doubt=self._doubt(),
        )

    def _doubt(self) -> str:
        if not self._namespaces and not any(named.registrations for named in self.facts.services.values()):
            return "the token may read no namespace at all: Nomad shows nothing, whatever there is"
        if self._memory.invisible:
            names = ", ".join(sorted(self._memory.invisible))
            return f"the token no longer sees the namespace {names}, which has had services"
        return ""

    # Who depends on what.

    def _set(self, name: ServiceName, named: Named, now: float) -> None:
        before = self.facts.services.get(name, NOTHING)
        self.facts.services[name] = named
        self._cursor = max(self._cursor, named.seen)
        gone = [r for id_, r in before.registrations.items() if id_ not in named.registrations]
        new = [r for id_, r in named.registrations.items() if r != before.registrations.get(id_)]
        for registration in gone:
            alloc = self.facts.allocs.get(registration.alloc)
            if alloc is not None and not alloc.terminal:
                self._memory.departs(name, registration, now + self._drain_limit)
        self._memory.returned(name, named.registrations.values())
        if gone or new or before.unreadable != named.unreadable:
            self.shown.touch([name])
        replaced = (before.registrations[r.id] for r in new if r.id in before.registrations)
        self._relate(name, [*gone, *new, *replaced])

    def _relate(self, name: ServiceName, registrations: Iterable[Registration]) -> None:
        """Bring up to date who depends on what, as far as these registrations are concerned."""
        shown = self.facts.shown(name)
        allocs, nodes = {r.alloc for r in shown}, {r.node for r in shown}
        for registration in registrations:
            _index(self._by_alloc, registration.alloc, name, related=registration.alloc in allocs)
            _index(self._by_node, registration.node, name, related=registration.node in nodes)
            self._belongs(name, (registration.namespace, registration.job))
            if len(registration.alloc) == UUID_LENGTH and registration.alloc not in self.facts.allocs:
                self._missing.allocs.add(registration.alloc)
            if registration.node and registration.node not in self.facts.nodes:
                self._missing.nodes.add(registration.node)
            self._choose_poll(registration.alloc)
            self._forget_if_over(registration.alloc)

    def _belongs(self, name: ServiceName, job: JobKey) -> None:
        if job[1]:
            _index(self._by_job, job, name, related=True)
            if job not in self.facts.jobs:
                self._missing.jobs.add(job)

    def _forget_if_over(self, id_: str) -> None:
        alloc = self.facts.allocs.get(id_)
        if alloc is not None and alloc.terminal and id_ not in self._by_alloc:
            del self.facts.allocs[id_]

    def _set_job(self, key: JobKey, spec: JobSpec | None) -> None:
        before = self.facts.jobs.get(key)
        self.facts.jobs[key] = spec
        if before == spec:
            return
        names = self._by_job.get(key, ())
        self.shown.touch(names)
        for name in self.facts.services.keys() & names:
            for registration in self.facts.services[name].registrations.values():
                self._choose_poll(registration.alloc)

    def _choose_poll(self, id_: str) -> None:
        """Ask for the checks of an allocation, or cease to."""
        alloc = self.facts.allocs.get(id_)
        if alloc is not None and not alloc.terminal and id_ in self._by_alloc and self._may_have_checks(alloc):
            if self.polled.get(id_) != alloc.node:
                self.polled[id_] = alloc.node
                self.polled_anew.add(id_)
        elif self.polled.pop(id_, None) is not None:
            self.polled_anew.add(id_)

    def _may_have_checks(self, alloc: Allocation) -> bool:
        spec = self.facts.jobs.get((alloc.namespace, alloc.job))
        checked = self._memory.checked.get(alloc.id)
        if checked is not None and checked.results:
            return True
        if spec is None:
            return False
        # Another version of the job may have had checks: its client knows.
        is_other = alloc.job_version is not None and alloc.job_version != spec.version
        return spec.checks_any(alloc.group) or (is_other and (checked is None or checked.results is None))

    def _release(self, id_: str) -> None:
        """An allocation is over: nobody of it still serves."""
        self._memory.forget_checks(id_)
        self._choose_poll(id_)
        for name in list(self._by_alloc.get(id_, ())):
            for one in list(self._memory.departed.get(name, {}).values()):
                if one.registration.alloc == id_:
                    self._gone(name, one.registration)
        self._forget_if_over(id_)

    def _gone(self, name: ServiceName, registration: Registration) -> None:
        self._memory.gone(name, registration.id)
        self.shown.touch([name])
        self._relate(name, [registration])


def _index(index: dict[K, tuple[ServiceName, ...]], key: K, name: ServiceName, *, related: bool) -> None:
    # Sets would be a tenth of all memory: of an allocation there are few services, and many allocations, mostly of the same one.
    before = index.get(key, ())
    if (name in before) == related:
        return
    names = (*before, name) if related else tuple(n for n in before if n != name)
    if names:
        index[key] = once(names) if len(names) == 1 else names
    else:
        del index[key]
