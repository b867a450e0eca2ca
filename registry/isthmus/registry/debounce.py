"""When to act on a burst of events: after `quiet` seconds without one, at the latest `maximum` seconds after the first."""

from __future__ import annotations

import msgspec


class Debounce(msgspec.Struct, frozen=True, gc=False):
    """The state of one debounce; all times are monotonic seconds."""

    quiet: float
    maximum: float
    first: float | None = None
    last: float = 0.0

    def event(self, now: float) -> Debounce:
        """The state after something happened at `now`."""
        return Debounce(self.quiet, self.maximum, now if self.first is None else self.first, now)

    def fired(self) -> Debounce:
        """The state after it was acted upon."""
        return Debounce(self.quiet, self.maximum)

    @property
    def due(self) -> float | None:
        """When to act; None while nothing is pending."""
        if self.first is None:
            return None
        return min(self.last + self.quiet, self.first + self.maximum)
