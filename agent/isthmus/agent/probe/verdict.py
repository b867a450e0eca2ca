"""From single outcomes to a verdict: thresholds, as Kubernetes has them. Pure."""

from __future__ import annotations

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """`healthy` is None before the first verdict. `row` counts the outcomes in a row, all like `last`, that may bring another."""

    healthy: bool | None = None
    row: int = 0
    last: bool | None = None

    def after(self, well: bool, success_threshold: int, failure_threshold: int) -> Verdict:
        """The verdict once another outcome is known."""
        if well is self.healthy:
            return Verdict(self.healthy, 0, well)
        row = self.row + 1 if well is self.last else 1
        if row >= (success_threshold if well else failure_threshold):
            return Verdict(well, 0, well)
        return Verdict(self.healthy, row, well)
