"""The tables of one Nomad that services and their health are joined from. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.nomad.answers import Allocation, Node, Registration, ServiceName
from isthmus.registry.nomad.health import Evidence
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.nomad.parse import Listed
from isthmus.registry.nomad.spec import JobSpec

JobKey = tuple[str, str]
"""Namespace and id."""


class Named(msgspec.Struct, frozen=True):
    """The registrations of one service, by id. Events up to the index `answered` are contained in the last answer about it; an
    answer from before the last event, `seen`, is too old.
    """

    answered: int
    seen: int
    registrations: Mapping[str, Registration]
    unreadable: tuple[tuple[str, str], ...] = ()


NOTHING = Named(0, 0, {})


class Facts:
    """What `Known` hears and `Shown` joins. Both share one of these."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.services: dict[ServiceName, Named] = {}
        self.allocs: dict[str, Allocation] = {}
        self.nodes: dict[str, Node | None] = {}
        """None: it cannot be read."""
        self.jobs: dict[JobKey, JobSpec | None] = {}
        """None: there is no such job, or it is stopped, or it cannot be read."""

    def shown(self, name: ServiceName) -> list[Registration]:
        """The registrations of a service, with those that have departed."""
        departed = self.memory.departed.get(name, {}).values()
        return [*self.services.get(name, NOTHING).registrations.values(), *(one.registration for one in departed)]

    def listed(self, name: ServiceName) -> list[Listed]:
        """The same, each with all that is known about it."""
        registered = self.services.get(name, NOTHING).registrations
        return [self._listed(r, deregistered=r.id not in registered) for r in self.shown(name)]

    def _listed(self, registration: Registration, *, deregistered: bool) -> Listed:
        return Listed(
            registration,
            Evidence(
                service=registration.service,
                alloc=self.allocs.get(registration.alloc),
                node=self.nodes.get(registration.node),
                spec=self.jobs.get((registration.namespace, registration.job)),
                checked=self.memory.checked.get(registration.alloc),
                deregistered=deregistered,
            ),
        )
