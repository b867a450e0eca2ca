"""When to say what about one registration: at once, again, later, never more. Pure: time and luck are arguments."""

from __future__ import annotations

from isthmus.registry.model import Health

FIRST_PAUSE = 0.5
"""Seconds after a first failure; twice as long after each further one, up to the time between renewals."""


class Upkeep:
    """What is known of one registration. Times are seconds of one clock, whichever it is."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.due = 0.0
        self.health = Health.UNKNOWN
        self.why = ""
        self.since = 0.0
        """When the health became what it is."""
        self.registered = False
        """Whether the last that was heard of the registry is that it has the registration."""
        self.tried = False
        self.to_put = True
        """Whether what it has is not what it should have."""
        self.stopped = False
        self.error = ""
        self.failing_since = 0.0
        self._failures = 0

    def report(self, health: Health, why: str, now: float) -> None:
        """The instance has turned out to be as healthy as this."""
        if health is not self.health:
            self.since = now
            self.to_put = True
            self.due = min(self.due, now)
        self.health, self.why = health, why

    def did_put(self, health: Health, now: float) -> None:
        """It was registered with this health, which may be the last one no more."""
        self._did()
        self.registered = True
        self.to_put = health is not self.health
        self.due = now if self.to_put else now + self.every

    def did_renew(self, known: bool, now: float) -> None:
        """The registry has answered that it knows it, or that it does not."""
        self._did()
        self.registered = known
        self.to_put = self.to_put or not known
        self.due = now if self.to_put else now + self.every

    def failed(self, error: str, now: float, luck: float) -> None:
        """An attempt came to nothing. `luck` is between 0 and 1, so that not all agents try again at the same time."""
        if not self.error:
            self.failing_since = now
        self.error = error
        self._failures += 1
        pause = min(self.every, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20))
        self.due = now + pause * (0.5 + luck / 2)

    def superseded(self, error: str, now: float) -> None:
        """It is another agent's now; nothing is to be done about it any more."""
        self.error, self.failing_since = error, now
        self.registered, self.to_put, self.stopped = False, False, True

    def _did(self) -> None:
        self.error, self._failures = "", 0
