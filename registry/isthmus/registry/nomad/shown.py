"""The services that are made of the facts, and which of them differ from what was shown last. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey
from isthmus.registry.nomad.answers import ServiceName
from isthmus.registry.nomad.facts import NOTHING, Facts, JobKey
from isthmus.registry.nomad.memory import Emptied
from isthmus.registry.nomad.parse import Parsed, Rules, key_of, parse_service


class Shown:
    """Services are built anew when they were touched, all others are what they were."""

    def __init__(self, origin: Origin, rules: Rules, facts: Facts) -> None:
        self.rules = rules
        self.services: dict[ServiceKey, Service] = {}
        self.changed: set[ServiceKey] = set()
        """Services that differ from those of the last snapshot; whoever makes one takes them out."""
        self.requarantined = False
        """Likewise, whether what is quarantined differs."""
        self._origin = origin
        self._facts = facts
        self._built: dict[ServiceName, Parsed] = {}
        self._quarantined: dict[ServiceName, tuple[Quarantined, ...]] = {}  # of few, so not to be looked for among all
        self._touched = set(facts.memory.emptied) | set(facts.memory.departed)

    def touch(self, names: Iterable[ServiceName]) -> None:
        """Something was heard that these services depend on."""
        self._touched.update(names)

    def build(self, now: float) -> None:
        """Make what was touched."""
        for name in self._touched:
            self._build(name, now)
        self._touched.clear()

    @property
    def quarantined(self) -> list[Quarantined]:
        """What of the services cannot be used."""
        return [q for quarantined in self._quarantined.values() for q in quarantined]

    def empty_jobs(self) -> set[JobKey]:
        """The jobs of services that are shown without instances."""
        emptied = self._facts.memory.emptied
        empty = (name for name, parsed in self._built.items() if parsed.service and not parsed.service.instances)
        return {key for name in empty if name in emptied for key in emptied[name].jobs}

    def _build(self, name: ServiceName, now: float) -> None:
        listed = self._facts.listed(name)
        parsed = parse_service(self._origin, name, listed, self.rules, now)
        unreadable = self._facts.services.get(name, NOTHING).unreadable
        if unreadable:
            named = [Quarantined(self._origin.name, where, reason) for where, reason in unreadable]
            parsed = Parsed(parsed.service, tuple(sorted((*parsed.quarantined, *named))))
        if parsed.service is not None:
            jobs = tuple({(one.registration.namespace, one.registration.job) for one in listed})
            empty = msgspec.structs.replace(parsed.service, instances=())
            self._facts.memory.emptied[name] = Emptied(empty, jobs)
        elif not parsed.quarantined:
            parsed = Parsed(self._without_instances(name))
        before = self._built.get(name, Parsed(None))
        if parsed == Parsed(None):
            self._built.pop(name, None)
        else:
            self._built[name] = parsed
        if parsed.quarantined != before.quarantined:
            self.requarantined = True
            if parsed.quarantined:
                self._quarantined[name] = parsed.quarantined
            else:
                del self._quarantined[name]
        if parsed.service != before.service:
            self.changed.add(key_of(name))
            if parsed.service is None:
                self.services.pop(key_of(name), None)
            else:
                self.services[key_of(name)] = parsed.service

    def _without_instances(self, name: ServiceName) -> Service | None:
        """A service goes on without instances for as long as a job that gave it some still has it in its specification."""
        emptied = self._facts.memory.emptied.get(name)
        if emptied is None:
            return None
        for key in emptied.jobs:
            if key not in self._facts.jobs:
                return emptied.service  # not read yet, so not known to be gone
            spec = self._facts.jobs[key]
            if spec is not None and spec.names(name.name):
                return emptied.service
        del self._facts.memory.emptied[name]
        return None
