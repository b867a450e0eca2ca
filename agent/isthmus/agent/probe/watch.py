"""Asking again and again, and telling what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from isthmus.agent.probe.ask import NotWellError, ask
from isthmus.agent.probe.config import Probe
from isthmus.agent.probe.verdict import Verdict

MAX_AT_ONCE = 16
"""How many probes of one agent may be under way at a time."""


async def watch_probe(
    probe: Probe, on_change: Callable[[bool, str], None], slots: asyncio.Semaphore | None = None
) -> None:
    """Run the probe until cancelled, and call `on_change` with each new verdict and the reason for it.

    Nothing is said before the first verdict: the application counts as unhealthy until its first success, and it is for the
    caller to know what to make of one that was healthy before. `slots` is what probes share that are not all to be under way
    at once; waiting for one is no part of the time that the application has for its answer.
    """
    loop = asyncio.get_running_loop()
    slots = slots or asyncio.Semaphore()
    verdict = Verdict()
    due = loop.time() + probe.initial_delay_seconds
    while True:
        await asyncio.sleep(due - loop.time())
        due = loop.time() + probe.period_seconds
        async with slots:
            try:
                await ask(probe.action, probe.timeout_seconds)
                well, why = True, "the probe succeeds"
            except NotWellError as e:
                well, why = False, str(e)
        before, verdict = verdict, verdict.after(well, probe.success_threshold, probe.failure_threshold)
        if verdict.healthy is not None and verdict.healthy is not before.healthy:
            on_change(verdict.healthy, why)
