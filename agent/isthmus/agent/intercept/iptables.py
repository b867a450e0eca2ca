"""Tables as text for `iptables-restore --noflush`, and what `iptables-save` shows of them. Pure.

Each table's text is applied by the kernel at once or not at all. Our chains are declared in it, which empties them if they are
there; the built-in chains never are, so that their rules, counters and policies stay. A rule that leads from a built-in chain
into ours is appended behind whatever is there, or put first, once, and is found again by the chain it leads to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from isthmus.agent.intercept.chains import (
    PREFIX,
    Action,
    Drop,
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

_JUMP = re.compile(rf"^-A (?!{PREFIX})(?P<spec>.* -[jg] {PREFIX}\w+)$")
_CHAIN = re.compile(rf"^:({PREFIX}\w+) ")


class Part:
    """What `iptables-save` shows of one table: our chains, the rules that lead into them, and how many rules are others'."""

    def __init__(self) -> None:
        self.chains: list[str] = []
        self.jumps: list[str] = []
        self.foreign = 0


def parse_save(text: str) -> Mapping[str, Part]:
    """By the name of the table."""
    parts: dict[str, Part] = {}
    part = Part()
    for line in text.splitlines():
        if line.startswith("*"):
            part = parts[line[1:]] = Part()
        elif chain := _CHAIN.match(line):
            part.chains.append(chain[1])
        elif jump := _JUMP.match(line):
            part.jumps.append(jump["spec"])
        elif line.startswith("-A ") and not line.startswith(f"-A {PREFIX}"):
            part.foreign += 1
    return parts


def to_restore(tables: Sequence[Table], saved: str) -> str:
    """The text that makes our part of the kernel's tables these, whatever it was; empty when there is nothing to do.

    `saved` is what `iptables-save` shows. No tables: remove everything that is ours.
    """
    parts = parse_save(saved)
    wanted: dict[str, Table] = {table.name: table for table in tables}
    lines: list[str] = []
    for name in dict.fromkeys((*wanted, *parts)):
        lines += _table(wanted.get(name), name, parts.get(name, Part())) if name in ("nat", "mangle", "raw") else []
    return "\n".join([*lines, ""]) if lines else ""


def is_complete(tables: Sequence[Table], saved: str) -> bool:
    """Whether the kernel has all of these chains, and leads into them exactly once."""
    parts = parse_save(saved)
    return all(
        sorted(part.chains) == sorted(c.name for c in table.chains) and sorted(part.jumps) == sorted(_hooks(table))
        for table in tables
        for part in (parts.get(table.name, Part()),)
    )


def _table(table: Table | None, name: str, part: Part) -> list[str]:
    chains = table.chains if table else ()
    wanted = _hooks(table) if table else {}
    names = [chain.name for chain in chains]
    stale = [chain for chain in part.chains if chain not in names]
    if not (chains or stale or part.jumps):
        return []
    kept = {spec for spec in part.jumps if spec in wanted and part.jumps.count(spec) == 1}
    return [
        f"*{name}",
        *(f":{chain} - [0:0]" for chain in names),
        *(f"-D {spec}" for spec in part.jumps if spec not in kept),
        *(f"-F {chain}" for chain in stale),
        *(f"-X {chain}" for chain in stale),
        *(f"-A {chain.name} {_rule(rule)}" for chain in chains for rule in chain.rules),
        *(f"-{'I' if early else 'A'} {spec}" for spec, early in wanted.items() if spec not in kept),
        "COMMIT",
    ]


def _hooks(table: Table) -> dict[str, bool]:
    """The rules that lead into our chains, and whether they stand first."""
    return {f"{hook.at} -p {hook.protocol} -j {hook.chain}": hook.early for hook in table.hooks}


def _rule(rule: Rule) -> str:
    words: list[str] = []
    if rule.source:
        words += ["-s", rule.source]
    if rule.destination:
        words += ["-d", rule.destination]
    if rule.not_destination:
        words += ["!", "-d", rule.not_destination]
    if rule.came_in:
        words += ["-i", rule.came_in]
    if rule.goes_out:
        words += ["-o", rule.goes_out]
    if rule.protocol:
        words += ["-p", rule.protocol]
    if rule.first is not None:
        words += ["-m tcp", *([] if rule.first else ["!"]), "--syn"]
    if rule.invalid:
        words.append("-m conntrack --ctstate INVALID")
    if rule.local is not None:
        words += ["-m addrtype", *([] if rule.local else ["!"]), "--dst-type LOCAL"]
    if rule.source_port:
        words.append(f"-m {rule.protocol} --sport {rule.source_port}")
    if rule.ports:
        low, high = rule.ports
        words.append(f"-m {rule.protocol} --dport {low}" + (f":{high}" if high != low else ""))
    if rule.uid is not None:
        words.append(f"-m owner --uid-owner {rule.uid}")
    if rule.gid is not None:
        words.append(f"-m owner --gid-owner {rule.gid}")
    if rule.mark is not None:
        words.append(f"-m mark --mark {_masked(*rule.mark)}")
    if rule.connection_mark is not None:
        words.append(f"-m connmark --mark {_masked(*rule.connection_mark)}")
    return " ".join([*words, _action(rule.do)])


def _action(do: Action) -> str:
    match do:
        case Return():
            return "-j RETURN"
        case Drop():
            return "-j DROP"
        case Jump(chain):
            return f"-j {chain}"
        case Redirect(port):
            return f"-j REDIRECT --to-ports {port}"
        case Tproxy(port, mark, mask):
            return f"-j TPROXY --on-port {port} --tproxy-mark {_masked(mark, mask)}"
        case SetMark(mark, mask):
            return f"-j MARK --set-xmark {_masked(mark, mask)}"
        case SetConnectionMark(mark, mask):
            return f"-j CONNMARK --set-xmark {_masked(mark, mask)}"
        case Zone(number):
            return f"-j CT --zone {number}"


def _masked(mark: int, mask: int) -> str:
    return f"{mark:#x}/{mask:#x}"
