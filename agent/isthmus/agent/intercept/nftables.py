"""Tables as text for `nft -f -`: tables of our own, `ip isthmus` and `ip6 isthmus`, replaced in one transaction. Pure.

Our chains look at a packet just after those of iptables at the same place (a priority 5 higher), so another program's rules come
first, as they do where ours are appended; those that go first, just before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.agent.intercept.chains import (
    Action,
    Drop,
    Hook,
    Jump,
    Redirect,
    Return,
    Rule,
    SetConnectionMark,
    SetMark,
    Table,
    Tproxy,
    Zone,
)
from isthmus.agent.intercept.plan import Family

TABLE = "isthmus"
FAMILIES: Mapping[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}

_TYPE = {
    ("nat", "PREROUTING"): ("nat hook prerouting", -100),
    ("nat", "OUTPUT"): ("nat hook output", -100),
    ("mangle", "PREROUTING"): ("filter hook prerouting", -150),
    ("mangle", "OUTPUT"): ("route hook output", -150),
    ("raw", "PREROUTING"): ("filter hook prerouting", -300),
    ("raw", "OUTPUT"): ("filter hook output", -300),
}
"""What stands for a built-in chain of iptables, and its priority there."""
_BEHIND = 5


def to_nft(tables: Mapping[Family, Sequence[Table]]) -> str:
    """The text that makes our tables these, whatever they were; a family with no tables has none of ours afterwards."""
    lines: list[str] = []
    for family, name in FAMILIES.items():
        # To add what may be there, and delete it: there is no "delete if it exists" in older releases.
        lines += [f"add table {name} {TABLE}", f"delete table {name} {TABLE}"]
        if found := tables.get(family):
            lines += [
                f"table {name} {TABLE} {{",
                *(_indent(line) for table in found for line in _table(table, name)),
                "}",
            ]
    return "\n".join([*lines, ""])


def _indent(line: str) -> str:
    return f"    {line}" if line else line


def _table(table: Table, family: str) -> list[str]:
    lines: list[str] = []
    for chain in table.chains:
        lines += [f"chain {chain.name} {{", *(_indent(_rule(rule, family)) for rule in chain.rules), "}"]
    for at, early in dict.fromkeys((hook.at, hook.early) for hook in table.hooks):
        hooks = [hook for hook in table.hooks if (hook.at, hook.early) == (at, early)]
        kind, priority = _TYPE[table.name, at]
        policy = f"type {kind} priority {priority + (-_BEHIND if early else _BEHIND)}; policy accept;"
        name = f"{table.name}_{at}{'_first' if early else ''}"
        lines += [f"chain {name} {{", *map(_indent, [policy, *map(_hook, hooks)]), "}"]
    return lines


def _hook(hook: Hook) -> str:
    return f"meta l4proto {hook.protocol} jump {hook.chain}"


def _rule(rule: Rule, family: str) -> str:
    words: list[str] = []
    if rule.came_in:
        words.append(f'iifname "{_interface(rule.came_in)}"')
    if rule.goes_out:
        words.append(f'oifname "{_interface(rule.goes_out)}"')
    if rule.source:
        words.append(f"{family} saddr {rule.source}")
    if rule.destination:
        words.append(f"{family} daddr {rule.destination}")
    if rule.not_destination:
        words.append(f"{family} daddr != {rule.not_destination}")
    if rule.protocol and not (rule.ports or rule.source_port):
        words.append(f"meta l4proto {rule.protocol}")
    if rule.first is not None:
        words.append(f"tcp flags & (fin|syn|rst|ack) {'==' if rule.first else '!='} syn")
    if rule.invalid:
        words.append("ct state invalid")
    if rule.local is not None:
        words.append(f"fib daddr type {'' if rule.local else '!= '}local")
    if rule.source_port:
        words.append(f"{rule.protocol} sport {rule.source_port}")
    if rule.ports:
        low, high = rule.ports
        words.append(f"{rule.protocol} dport {low}" + (f"-{high}" if high != low else ""))
    if rule.uid is not None:
        words.append(f"meta skuid {rule.uid}")
    if rule.gid is not None:
        words.append(f"meta skgid {rule.gid}")
    if rule.mark is not None:
        words.append("meta mark & {1:#x} == {0:#x}".format(*rule.mark))
    if rule.connection_mark is not None:
        words.append("ct mark & {1:#x} == {0:#x}".format(*rule.connection_mark))
    return " ".join([*words, _action(rule.do)])


def _action(do: Action) -> str:
    match do:
        case Return():
            return "return"
        case Drop():
            return "drop"
        case Jump(chain):
            return f"jump {chain}"
        case Redirect(port):
            return f"redirect to :{port}"
        case Tproxy(port, mark, mask):
            return f"meta mark set {_masked('meta', mark, mask)} tproxy to :{port} accept"
        case SetMark(mark, mask):
            return f"meta mark set {_masked('meta', mark, mask)}"
        case SetConnectionMark(mark, mask):
            return f"ct mark set {_masked('ct', mark, mask)}"
        case Zone(number):
            return f"ct zone set {number}"


def _masked(of: str, mark: int, mask: int) -> str:
    """The mark with our bits replaced."""
    return f"{of} mark & {0xFFFFFFFF & ~mask:#x} | {mark:#x}" if mask != 0xFFFFFFFF else f"{mark:#x}"


def _interface(name: str) -> str:
    return f"{name[:-1]}*" if name.endswith("+") else name
