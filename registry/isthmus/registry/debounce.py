"""When to act on events: at once on what comes after a rest, and on what follows when it has been quiet for a while."""

from __future__ import annotations

import msgspec


class Debounce(msgspec.Struct, frozen=True, gc=False):
    """The state of one debounce; all times are monotonic seconds.

    After a rest of `maximum` seconds an event is acted upon at once. What comes sooner may be part of a burst: it waits for
    `quiet` seconds without another event, `maximum` seconds at the most.
    """

    quiet: float
    maximum: float
    first: float | None = None
    last: float = 0.0
    acted: float | None = None

    def event(self, now: float) -> Debounce:
        """The state after something happened at `now`."""
        first = now if self.first is None else self.first
        return Debounce(self.quiet, self.maximum, first, now, self.acted)

    def fired(self, now: float) -> Debounce:
        """The state after it was acted upon at `now`."""
        return Debounce(self.quiet, self.maximum, acted=now)

    @property
    def due(self) -> float | None:
        """When to act; None while nothing is pending."""
        if self.first is None:
            return None
        if self.acted is None or self.first - self.acted >= self.maximum:
            return self.first
        return min(self.last + self.quiet, self.first + self.maximum)
