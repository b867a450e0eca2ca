"""How many reads there are in a minute, and who gets the last ones. The clock is the event loop's own, and soon over."""

from __future__ import annotations

import asyncio
import time

import pytest

from isthmus.registry.consul.budget import RESERVED, ReadBudget
from isthmus.registry.consul.query import Urgency
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus


def mk_budget(reads_per_minute: int) -> tuple[ReadBudget, OriginStatus]:
    stats = OriginStatus(Origin("dc1", "consul"))
    return ReadBudget(reads_per_minute, stats), stats


def spend_until_short(budget: ReadBudget, urgency: Urgency) -> int:
    count = 0
    while not budget.delay(urgency):
        budget.spend()
        count += 1
    return count


@pytest.mark.parametrize(
    ("urgency", "at_once"), [(Urgency.SWEPT, 500), (Urgency.PROBED, 500), (Urgency.NAMED, 950), (Urgency.HINT, 1000)]
)
def test_what_is_less_urgent_leaves_reads_to_what_is_more_urgent(urgency: Urgency, at_once: int) -> None:
    """A quarter of the minute's reads may be made at once; half of these are not for sweeps."""
    budget, _ = mk_budget(4000)
    assert at_once <= spend_until_short(budget, urgency) <= at_once + 20
    more_urgent = [u for u in Urgency if RESERVED[u] < RESERVED[urgency]]
    assert not any(budget.delay(u) for u in more_urgent)


def test_a_minute_sees_no_more_than_there_are() -> None:
    budget, _ = mk_budget(4000)
    spend_until_short(budget, Urgency.HINT)
    left = 4000 - 1000
    assert budget.delay(Urgency.HINT) == pytest.approx(60 / left, abs=0.01)


async def test_reads_wait_for_their_turn_and_are_said_to() -> None:
    budget, stats = mk_budget(60_000)
    spend_until_short(budget, Urgency.NAMED)
    assert stats.delays == 1
    began = time.monotonic()
    for _ in range(50):
        await budget.ready(Urgency.NAMED)
        budget.spend()
    assert time.monotonic() - began >= 50 / 750 - 0.01
    assert stats.delays > 1


async def test_a_hint_does_not_stand_behind_a_sweep() -> None:
    budget, _ = mk_budget(120)
    spend_until_short(budget, Urgency.SWEPT)
    sweep = asyncio.create_task(budget.ready(Urgency.SWEPT))
    await asyncio.wait_for(budget.ready(Urgency.HINT), 0.5)
    assert not sweep.done()
    sweep.cancel()
