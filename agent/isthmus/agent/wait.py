"""Conditions on which something may start: `ready,registered,upstream:reviews>=1,dns`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from isthmus.agent.answers import AgentStatus
from isthmus.xds.names import ClusterName

ACCEPTED = "ready, registered, dns, upstream:NAME or upstream:NAME>=COUNT"

_UPSTREAM = re.compile(r"upstream:([a-z0-9_.*-]{1,253})(?:>=(\d{1,6}))?", re.ASCII | re.IGNORECASE)


class Condition(msgspec.Struct, frozen=True):
    """`kind` is ready, registered, dns or upstream; that with a service's name and how many healthy instances it is to have."""

    kind: str
    name: str = ""
    count: int = 1


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Read a list with commas between.

    Raises:
        ValueError: there is none, or one that is not known; with what would be accepted.

    """
    found = []
    for word in (w.strip() for w in text.split(",")):
        upstream = _UPSTREAM.fullmatch(word)
        if word in ("ready", "registered", "dns"):
            found.append(Condition(word))
        elif upstream:
            found.append(Condition("upstream", upstream[1].lower().removesuffix("."), int(upstream[2] or 1)))
        else:
            raise ValueError(f"{word!r}: expected {ACCEPTED}, with commas between")
    return tuple(found)


def unmet(conditions: Iterable[Condition], status: AgentStatus) -> Iterator[str]:
    """What is still to come, in words."""
    for condition in conditions:
        if condition.kind == "ready" and not status.ready:
            yield f"ready ({'; '.join(status.missing)})"
        elif condition.kind == "dns" and not status.dns:
            yield (
                "dns (the agent has no DNS server: write `dns: {}` in its configuration)"
                if status.dns is None
                else "dns"
            )
        elif condition.kind == "registered":
            yield from (f"registered ({s.id}: {s.unregistered})" for s in status.services if s.unregistered)
        elif condition.kind == "upstream":
            healthy = _healthy(condition.name, status)
            if healthy < condition.count:
                yield f"upstream:{condition.name}>={condition.count} ({healthy} healthy)"


def _healthy(name: str, status: AgentStatus) -> int:
    """Of a service by its host name, or as much of the front of that as names it."""
    counts = [0]
    for cluster, healthy in status.upstreams.items():
        try:
            parsed = ClusterName.parse(cluster)
        except ValueError:
            continue
        if parsed.direction == "outbound" and not parsed.subset and f"{parsed.hostname}.".startswith(f"{name}."):
            counts.append(healthy)
    return max(counts)
