"""What is known of one Nomad, and the snapshot made of it. Pure: the reading is in reading.py.

Answers and events arrive in any order. Of one service the index decides, which both have: an event that an answer already
contains is skipped, and so is an answer that is older than an event. Allocations, nodes and jobs carry an index of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot
from isthmus.registry.nomad.answers import Allocation, CheckResult, Job, Listing, Node, Registration, ServiceName
from isthmus.registry.nomad.health import Evidence
from isthmus.registry.nomad.memory import Emptied, Memory
from isthmus.registry.nomad.parse import Listed, Parsed, Rules, cannot_be_asked_for, key_of, parse_service
from isthmus.registry.nomad.spec import JobSpec, job_spec

JobKey = tuple[str, str]
"""Namespace and id."""

UUID_LENGTH = 36
"""To ask for an allocation by another id is an error in Nomad."""

K = TypeVar("K")


class _Named(msgspec.Struct, frozen=True):
    """The registrations of one service. Events up to the index `answered` are contained in the last answer about it; an answer
    from before the last event, `seen`, is too old.
    """

    answered: int
    seen: int
    registrations: Mapping[str, Registration]
    unreadable: tuple[tuple[str, str], ...] = ()


class Missing(msgspec.Struct, frozen=True):
    """Allocations that are in no list of those that run, nodes, and jobs."""

    allocs: set[str]
    nodes: set[str]
    jobs: set[JobKey]


class Known:
    """The registrations, and everything that their health is joined from; what of it no snapshot has shown yet."""

    def __init__(self, origin: Origin, rules: Rules, drain_limit: float, memory: Memory) -> None:
        self._origin = origin
        self.rules = rules
        self._drain_limit = drain_limit
        self._memory = memory
        self._list_index = 0
        """Of the list of services: events up to it tell nothing new about services that are not listed."""
        self._cursor = 0
        self.services: dict[ServiceName, _Named] = {}
        self.allocs: dict[str, Allocation] = {}
        self.nodes: dict[str, Node | None] = {}
        """None: it cannot be read."""
        self.jobs: dict[JobKey, JobSpec | None] = {}
        """None: there is no such job, or it is stopped, or it cannot be read."""
        self.polled: dict[str, str] = {}
        """The node by each allocation whose checks are to be asked for."""
        self.polled_anew: set[str] = set()
        """Allocations that have come to `polled` or left it; whoever asks takes them out."""
        self.remarks: dict[str, Quarantined] = {}
        self._unaskable: tuple[Quarantined, ...] = ()
        self._by_alloc: dict[str, set[ServiceName]] = {}
        self._by_node: dict[str, set[ServiceName]] = {}
        self._by_job: dict[JobKey, set[ServiceName]] = {}
        self._missing_allocs: set[str] = set()
        self._missing_nodes: set[str] = set()
        self._missing_jobs: set[JobKey] = set()
        self._namespaces: frozenset[str] = frozenset()
        self._built: dict[ServiceName, Parsed] = {}
        self._shown: dict[ServiceKey, Service] = {}
        self._dirty: set[ServiceName] = set(memory.emptied) | set(memory.departed)
        self._changed: set[ServiceKey] = set()
        self._remarked = False
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
        for name in self.services.keys() - names:
            if self.services[name].seen <= index:
                self._set(name, _Named(index, index, {}), now)
        return names - unaskable.keys()

    def heard_service(self, name: ServiceName, listing: Listing, index: int, now: float) -> None:
        """An answer about one service; ignored when it is older than what is known."""
        before = self.services.get(name)
        if before is None or before.seen <= index:
            registrations = {r.id: r for r in listing.registrations}
            self._set(name, _Named(index, index, registrations, listing.unreadable), now)

    def heard_allocations(self, allocs: Iterable[Allocation], index: int) -> None:
        """The list of allocations that are not over; those that are missing from it are."""
        listed = {a.id: a for a in allocs}
        for alloc in listed.values():
            self.heard_allocation(alloc)
        for id_ in self.allocs.keys() - listed.keys():
            if self.allocs[id_].modify_index <= index:
                self.no_allocation(id_)

    def heard_allocation(self, alloc: Allocation) -> None:
        """One allocation, listed or from an event."""
        before = self.allocs.get(alloc.id)
        if before is None:
            if alloc.terminal and alloc.id not in self._by_alloc:
                return
        elif alloc.modify_index < before.modify_index:
            return
        elif alloc.job_version is None:
            alloc = msgspec.structs.replace(alloc, job_version=before.job_version)
        self.allocs[alloc.id] = alloc
        job = (alloc.namespace, alloc.job)
        spec = self.jobs.get(job)
        if spec is not None and alloc.job_version is not None and alloc.job_version > spec.version:
            self._missing_jobs.add(job)
        if before != alloc:
            self._touch(self._by_alloc.get(alloc.id, ()))
            self._choose_poll(alloc.id)
        if alloc.terminal:
            self._release(alloc.id)

    def no_allocation(self, id_: str) -> None:
        """Nomad does not know this allocation."""
        if self.allocs.pop(id_, None) is not None:
            self._touch(self._by_alloc.get(id_, ()))
        self._release(id_)

    def heard_node(self, node: Node) -> None:
        """One node, read or from an event."""
        before = self.nodes.get(node.id)
        if before is None or before.modify_index <= node.modify_index:
            self.nodes[node.id] = node
            if before != node:
                self._touch(self._by_node.get(node.id, ()))

    def no_node(self, id_: str) -> None:
        """This node cannot be read."""
        self.nodes.setdefault(id_, None)

    def heard_job(self, job: Job) -> None:
        """One job, read or from an event."""
        key = (job.namespace, job.id)
        before = self.jobs.get(key)
        if before is None or before.modify_index <= job.modify_index:
            self._set_job(key, job_spec(job))

    def no_job(self, key: JobKey, index: int | None = None) -> None:
        """There is no such job, or it was stopped at this index."""
        spec = self.jobs.get(key)
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
            self._touch(self._by_alloc.get(alloc, ()))

    def silent(self, alloc: str, now: float) -> None:
        """A client did not say how the checks of an allocation are."""
        if alloc in self.polled:
            self._memory.silent(alloc, now)

    def remark(self, subject: str, reason: str) -> None:
        """Something that the operator should know, beside what is wrong with single services; empty: no more."""
        before = self.remarks.get(subject)
        after = Quarantined(self._origin.name, subject, reason) if reason else None
        if after is not None:
            self.remarks[subject] = after
        else:
            self.remarks.pop(subject, None)
        self._remarked |= before != after

    # What Nomad's events tell.

    def registered(self, registration: Registration, index: int, now: float) -> None:
        """An instance is new, or is registered otherwise than before."""
        name = ServiceName(registration.namespace, registration.service)
        before = self.services.get(name, _Named(self._list_index, 0, {}))
        if index <= before.answered or index < before.seen or cannot_be_asked_for(name):
            return
        if registration.id not in before.registrations:
            self._memory.starts_over(registration.alloc)
        registrations = {**before.registrations, registration.id: registration}
        self._set(name, _Named(before.answered, index, registrations, before.unreadable), now)

    def deregistered(self, registration: Registration, index: int, now: float) -> None:
        """An instance is no longer registered."""
        name = ServiceName(registration.namespace, registration.service)
        before = self.services.get(name)
        if before is None or index <= before.answered or index < before.seen:
            return
        registrations = {id_: r for id_, r in before.registrations.items() if id_ != registration.id}
        self._set(name, _Named(before.answered, index, registrations, before.unreadable), now)

    # What the reading asks.

    def missing(self) -> Missing:
        """What services depend on, is to be read, and was not returned here before."""
        missing = Missing(
            {id_ for id_ in self._missing_allocs if id_ not in self.allocs}, self._missing_nodes, self._missing_jobs
        )
        self._missing_allocs, self._missing_nodes, self._missing_jobs = set(), set(), set()
        return missing

    def empty_jobs(self) -> set[JobKey]:
        """The jobs of services that are shown without instances."""
        empty = (name for name, parsed in self._built.items() if parsed.service and not parsed.service.instances)
        return {key for name in empty if name in self._memory.emptied for key in self._memory.emptied[name].jobs}

    def leaving(self) -> set[str]:
        """Allocations of instances that are deregistered and may still serve."""
        return {one.registration.alloc for _, one in self._memory.leaving()}

    def has_unreadable(self, name: ServiceName) -> bool:
        """Whether some registrations of a service could not be read: events do not tell which of them are mended."""
        named = self.services.get(name)
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
            alloc = self.allocs.get(one.registration.alloc)
            if one.until <= now or alloc is None or alloc.terminal:
                self._gone(name, one.registration)
        for id_ in self.polled:
            checked = self._memory.checked.get(id_)
            if checked is not None and checked.counts_less(now):
                self._touch(self._by_alloc.get(id_, ()))

    # What the consumer gets.

    def has_news(self, now: float) -> bool:
        """Whether anything differs from the last snapshot taken."""
        for name in self._dirty:
            self._build(name, now)
        self._dirty.clear()
        return bool(self._changed) or self._remarked

    def take(self, now: float) -> Snapshot:
        """All of it. `changed` names what differs from the snapshot taken before."""
        self.has_news(now)
        changed = frozenset(self._changed)
        self._changed.clear()
        self._remarked = False
        quarantined = [q for parsed in self._built.values() for q in parsed.quarantined]
        return Snapshot(
            origin=self._origin,
            services=dict(self._shown),
            cursor=str(self._cursor),
            changed=changed,
            quarantined=tuple(sorted((*quarantined, *self._unaskable, *self.remarks.values()))),
            doubt=self._doubt(),
        )

    def _doubt(self) -> str:
        if not self._namespaces and not any(named.registrations for named in self.services.values()):
            return "the token may read no namespace at all: Nomad shows nothing, whatever there is"
        if self._memory.invisible:
            names = ", ".join(sorted(self._memory.invisible))
            return f"the token no longer sees the namespace {names}, which has had services"
        return ""

    # The join.

    def _set(self, name: ServiceName, named: _Named, now: float) -> None:
        before = self.services.get(name)
        self.services[name] = named
        self._cursor = max(self._cursor, named.seen)
        for registration in before.registrations.values() if before else ():
            if registration.id not in named.registrations:
                self._departs(name, registration, now)
        self._memory.returned(name, named.registrations.values())
        if before is not None and (before.registrations, before.unreadable) == (
            named.registrations,
            named.unreadable,
        ):
            return
        self._dirty.add(name)
        touched = dict(before.registrations if before else {}) | dict(named.registrations)
        for registration in touched.values():
            self._relate(name, registration)

    def _relate(self, name: ServiceName, registration: Registration) -> None:
        """Bring the indexes of who depends on what up to date for one allocation of a service."""
        shown = [*self.services[name].registrations.values()]
        shown += [one.registration for one in self._memory.departed.get(name, {}).values()]
        job = (registration.namespace, registration.job)
        _relate(self._by_alloc, registration.alloc, name, any(r.alloc == registration.alloc for r in shown))
        _relate(self._by_node, registration.node, name, any(r.node == registration.node for r in shown))
        self._belongs(name, job)
        if len(registration.alloc) == UUID_LENGTH and registration.alloc not in self.allocs:
            self._missing_allocs.add(registration.alloc)
        if registration.node and registration.node not in self.nodes:
            self._missing_nodes.add(registration.node)
        self._choose_poll(registration.alloc)
        alloc = self.allocs.get(registration.alloc)
        if alloc is not None and alloc.terminal and alloc.id not in self._by_alloc:
            del self.allocs[alloc.id]

    def _belongs(self, name: ServiceName, job: JobKey) -> None:
        if job[1]:
            self._by_job.setdefault(job, set()).add(name)
            if job not in self.jobs:
                self._missing_jobs.add(job)

    def _departs(self, name: ServiceName, registration: Registration, now: float) -> None:
        alloc = self.allocs.get(registration.alloc)
        if alloc is not None and not alloc.terminal:
            self._memory.departs(name, registration, now + self._drain_limit)

    def _touch(self, names: Iterable[ServiceName]) -> None:
        self._dirty.update(names)

    def _set_job(self, key: JobKey, spec: JobSpec | None) -> None:
        before = self.jobs.get(key)
        self.jobs[key] = spec
        if before == spec:
            return
        names = self._by_job.get(key, set())
        self._touch(names)
        for name in names & self.services.keys():
            for registration in self.services[name].registrations.values():
                self._choose_poll(registration.alloc)

    def _choose_poll(self, id_: str) -> None:
        """Ask for the checks of an allocation, or cease to."""
        alloc = self.allocs.get(id_)
        if alloc is not None and not alloc.terminal and id_ in self._by_alloc and self._may_have_checks(alloc):
            if self.polled.get(id_) != alloc.node:
                self.polled[id_] = alloc.node
                self.polled_anew.add(id_)
        elif self.polled.pop(id_, None) is not None:
            self.polled_anew.add(id_)

    def _may_have_checks(self, alloc: Allocation) -> bool:
        spec = self.jobs.get((alloc.namespace, alloc.job))
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
        if id_ in self.allocs and id_ not in self._by_alloc:
            del self.allocs[id_]

    def _gone(self, name: ServiceName, registration: Registration) -> None:
        self._memory.gone(name, registration.id)
        self._dirty.add(name)
        if name in self.services:
            self._relate(name, registration)

    def _build(self, name: ServiceName, now: float) -> None:
        named = self.services.get(name, _Named(0, 0, {}))
        departed = self._memory.departed.get(name, {})
        listed = [self._listed(r, deregistered=False) for r in named.registrations.values()]
        listed += [self._listed(one.registration, deregistered=True) for one in departed.values()]
        parsed = parse_service(self._origin, name, listed, self.rules, now)
        if named.unreadable:
            unreadable = [Quarantined(self._origin.name, where, reason) for where, reason in named.unreadable]
            parsed = Parsed(parsed.service, tuple(sorted((*parsed.quarantined, *unreadable))))
        before = self._built.get(name, Parsed(None))
        if parsed.service is not None:
            jobs = frozenset((r.registration.namespace, r.registration.job) for r in listed)
            self._memory.emptied[name] = Emptied(msgspec.structs.replace(parsed.service, instances=()), jobs)
        elif not parsed.quarantined:
            parsed = Parsed(self._emptied(name))
        if parsed.service is None and not parsed.quarantined:
            self._built.pop(name, None)
        else:
            self._built[name] = parsed
        self._remarked |= parsed.quarantined != before.quarantined
        if parsed.service != before.service:
            key = key_of(name)
            self._changed.add(key)
            if parsed.service is None:
                self._shown.pop(key, None)
            else:
                self._shown[key] = parsed.service

    def _emptied(self, name: ServiceName) -> Service | None:
        """A service without instances goes on for as long as a job that gave it some still has it in its specification."""
        emptied = self._memory.emptied.get(name)
        if emptied is None:
            return None
        for key in emptied.jobs:
            if key not in self.jobs:
                return emptied.service  # not read yet, so not known to be gone
            spec = self.jobs[key]
            if spec is not None and spec.names(name.name):
                return emptied.service
        del self._memory.emptied[name]
        for key in emptied.jobs:
            self._by_job[key].discard(name)
        return None

    def _listed(self, registration: Registration, *, deregistered: bool) -> Listed:
        alloc = self.allocs.get(registration.alloc)
        return Listed(
            registration,
            Evidence(
                service=registration.service,
                alloc=alloc,
                node=self.nodes.get(registration.node),
                spec=self.jobs.get((registration.namespace, registration.job)),
                checked=self._memory.checked.get(registration.alloc),
                deregistered=deregistered,
            ),
        )


def _relate(index: dict[K, set[ServiceName]], key: K, name: ServiceName, related: bool) -> None:
    names = index.setdefault(key, set())
    if related:
        names.add(name)
    else:
        names.discard(name)
    if not names:
        del index[key]
