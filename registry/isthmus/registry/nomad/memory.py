"""What outlives one listing of Nomad: the next one does not tell it. Pure.

Three things are in no list of Nomad's: what a client said about checks before it stopped answering, an instance that is
deregistered and serves until its shutdown_delay is over, and a service whose job is scaled to zero. They are remembered for as
long as this process runs, over any number of failures to read.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from isthmus.registry.model import Service
from isthmus.registry.nomad.answers import CheckResult, Registration, ServiceName
from isthmus.registry.nomad.health import Checked


class Departed(msgspec.Struct, frozen=True):
    """An instance that was deregistered while its allocation ran; shown as draining until a monotonic second at the latest."""

    registration: Registration
    until: float


class Emptied(msgspec.Struct, frozen=True):
    """A service as it was when it last had instances, and the jobs that gave it some, as (namespace, id)."""

    service: Service
    jobs: tuple[tuple[str, str], ...]


class Memory:
    """One Nomad's. Shared by everything that reads it."""

    def __init__(self) -> None:
        self.checked: dict[str, Checked] = {}
        """By allocation."""
        self.departed: dict[ServiceName, dict[str, Departed]] = {}
        self.emptied: dict[ServiceName, Emptied] = {}
        """By every service that has had instances, those that have some now included."""
        self.visible: frozenset[str] = frozenset()
        """Namespaces that the token has seen at any time."""
        self.invisible: frozenset[str] = frozenset()
        """Namespaces that have vanished from the token's sight together with the services in them."""

    # Checks.

    def heard_checks(self, alloc: str, results: tuple[CheckResult, ...]) -> bool:
        """A client's answer; returns whether it says anything new."""
        return self._check(alloc, Checked(results))

    def silent(self, alloc: str, now: float) -> bool:
        """A client did not answer: its last word is kept. Returns whether that was not known before."""
        before = self.checked.get(alloc, Checked())
        since = now if before.silent_since is None else before.silent_since
        return self._check(alloc, Checked(before.results, since, before.anew))

    def starts_over(self, alloc: str) -> None:
        """The tasks of an allocation begin anew: what their checks said does not count any more."""
        self.checked[alloc] = Checked(anew=True)

    def forget_checks(self, alloc: str) -> None:
        """The allocation is over."""
        self.checked.pop(alloc, None)

    def _check(self, alloc: str, checked: Checked) -> bool:
        before = self.checked.get(alloc)
        self.checked[alloc] = checked
        return before != checked

    # Instances on their way out.

    def departs(self, name: ServiceName, registration: Registration, until: float) -> None:
        """A registration went while its allocation ran."""
        self.departed.setdefault(name, {}).setdefault(registration.id, Departed(registration, until))

    def returned(self, name: ServiceName, registrations: Iterable[Registration]) -> None:
        """These are registered (again): whoever departed with one of their ids, or from one of their places, is not leaving."""
        departed = self.departed.get(name)
        if not departed:
            return
        here = list(registrations)
        ids = {r.id for r in here}
        places = {(r.address, r.port) for r in here}
        for id_, one in list(departed.items()):
            if id_ in ids or (one.registration.address, one.registration.port) in places:
                del departed[id_]
        if not departed:
            del self.departed[name]

    def gone(self, name: ServiceName, id_: str) -> None:
        """The allocation of a departed instance runs no more, or its time is over."""
        departed = self.departed.get(name, {})
        departed.pop(id_, None)
        if not departed:
            self.departed.pop(name, None)

    def leaving(self) -> list[tuple[ServiceName, Departed]]:
        """All that have departed and are not gone."""
        return [(name, one) for name, departed in self.departed.items() for one in departed.values()]
