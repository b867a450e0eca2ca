"""Which workloads have been silent for too long. Pure; times are monotonic seconds of this process.

A workload's heartbeats are watched over by one replica of the bridge, which is named in its record, and that one alone takes it
out when they stop. The others wait for as long as that replica lives; its silence is no evidence of theirs. Where it is silent
itself, another one takes over what it hears, and the rest is given `GuardRules.hold` more seconds to be heard anywhere. The same
goes when many stop at once: then it is more likely that they cannot reach the bridge than that they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

MANY = 5
"""Of fewer, each is judged by itself."""

FIRST_PERIOD, LONGEST_PERIOD = 0.5, 10.0
"""Seconds between two signs of life of a replica."""


class Listener(msgspec.Struct, frozen=True):
    """What is known of one workload's signs of life: which replica watches over it, and when it was heard of, there or here."""

    id: str
    bridge: str
    ttl: float
    heard: float


class Rules(msgspec.Struct, frozen=True):
    """`hold` and `shrink` as in GuardRules. `slack` is the time that news from other replicas take, 0 if there are none."""

    hold: float
    shrink: float
    slack: float = 0.0


class Judgement(msgspec.Struct, frozen=True):
    """Ids of those that are taken for gone, and of those that are silent, and are held."""

    gone: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


def judge(listeners: Iterable[Listener], me: str, silent: Mapping[str, float], now: float, rules: Rules) -> Judgement:
    """Judge at `now`. `silent` has the replicas that give no sign of life, and since when; `me` is this one."""
    listeners = list(listeners)
    mine = [one for one in listeners if one.bridge == me]
    overdue = [(one, due) for one in mine if (due := one.heard + one.ttl + rules.slack) <= now]
    doubtful = len(overdue) >= MANY and len(overdue) > rules.shrink * len(mine)
    gone = [one.id for one, due in overdue if not doubtful or due + rules.hold <= now]
    held = [one.id for one, due in overdue if doubtful and due + rules.hold > now]
    for one in listeners:
        since = silent.get(one.bridge)
        if since is None or (due := max(one.heard, since) + one.ttl) > now:
            continue
        (gone if due + rules.hold <= now else held).append(one.id)
    return Judgement(tuple(sorted(gone)), tuple(sorted(held)))


def period(ttls: Iterable[float]) -> float:
    """Seconds between two signs of life of a replica, by what the workloads are given."""
    return min(LONGEST_PERIOD, max(FIRST_PERIOD, min(ttls, default=3 * LONGEST_PERIOD) / 3))
