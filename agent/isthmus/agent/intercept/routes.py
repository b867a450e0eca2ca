"""The routing rule and route that TPROXY needs: a packet with our mark belongs on this host, whatever its address is. Pure.

Ours are known by the number of their origin ("protocol"), which the kernel keeps beside each rule and route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.agent.intercept.plan import Family, Plan

ORIGIN = 153
"""As `ip` calls it, the protocol; 153 is nobody's in iproute2's list."""

LOCAL = "2"

OPTION: Mapping[Family, str] = {"ipv4": "-4", "ipv6": "-6"}


class Entry(msgspec.Struct, frozen=True):
    """Of `ip -N -j rule show`, or of `ip -N -j route show`, which calls local routes by the number of their type."""

    protocol: str = ""
    table: str = ""
    fwmark: str = ""
    fwmask: str = ""
    dst: str = ""
    type: str = ""

    @property
    def ours(self) -> bool:
        """Whether we have made it."""
        return self.protocol == str(ORIGIN)


def parse_entries(text: str) -> tuple[Entry, ...]:
    """What `ip -N -j` prints; nothing is an empty list.

    Raises:
        msgspec.DecodeError: it is something else.

    """
    return msgspec.json.decode(text, type=tuple[Entry, ...]) if text.strip() else ()


def to_commands(
    plan: Plan | None, family: Family, rules: Sequence[Entry], routes: Sequence[Entry]
) -> list[tuple[str, ...]]:
    """Arguments of `ip` that lead from what is there to what the plan needs; None needs nothing, and removes what is ours.

    A new rule comes after the route that it leads to, and an old one goes before.
    """
    wanted = plan is not None and plan.tproxy and family in plan.families
    mark = f"{plan.mark & plan.mask:#x}/{plan.mask:#x}" if plan else ""
    table = str(plan.route_table) if plan else ""
    option = OPTION[family]
    commands: list[tuple[str, ...]] = []
    has_rule = has_route = False
    for rule in rules:
        if not rule.ours:
            continue
        found = f"{rule.fwmark}/{rule.fwmask or '0xffffffff'}"
        if wanted and not has_rule and (found, rule.table) == (mark, table):
            has_rule = True
        else:
            commands.append((option, "rule", "del", *_rule(found, rule.table)))
    for route in routes:
        if not route.ours:
            continue
        if wanted and not has_route and (route.type, route.dst, route.table) == (LOCAL, "default", table):
            has_route = True
        else:
            commands.append((option, "route", "del", *_route(route.table, route.dst)))
    if wanted and not has_route:
        commands.append((option, "route", "add", *_route(table)))
    if wanted and not has_rule:
        commands.append((option, "rule", "add", *_rule(mark, table)))
    return commands


def _rule(mark: str, table: str) -> tuple[str, ...]:
    return ("fwmark", mark, "lookup", table, "protocol", str(ORIGIN))


def _route(table: str, destination: str = "default") -> tuple[str, ...]:
    return ("local", destination, "dev", "lo", "table", table, "proto", str(ORIGIN))
