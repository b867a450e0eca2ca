"""`isthmus doctor`: what somebody should look at."""

from __future__ import annotations

from collections import Counter

from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import Output, note, print_document, print_table
from isthmus.registry.doubt import Finding

_SHOWN = 10
"""Findings of one code in a table: the rest is more of the same."""


def doctor(*, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table") -> int:
    """List what is wrong or doubtful, the most pressing first, and below what to do about it.

    Registries that cannot be read, proxies that refuse, services that nobody serves, entries that could not be used or are
    probably out of date. Nothing is changed or removed for any of it, unless doubt.remove says so. The table has the first ten
    findings of a kind, JSON and YAML have all.

    The exit status is 3 when there are findings.

    Examples:
        isthmus doctor

        isthmus doctor -o json | jq -r '.[] | select(.code == "FailedNode") | .subject'

    Args:
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    findings = get(bridge, "/debug/doctor", list[Finding])
    if output != "table":
        print_document(findings, output)
        return 3 if findings else 0
    seen: Counter[str] = Counter()
    rows = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= _SHOWN:
            rows.append((finding.code, finding.subject, finding.text))
    print_table(("FINDING", "WHERE", "WHAT"), rows, f"{bridge} has no findings")
    if findings:
        print()  # noqa: T201 - between two tables
        print_table(("FINDING", "FIX"), list({f.code: f.fix for f in findings}.items()), "")
    for code, count in seen.items():
        if count > _SHOWN:
            note(f"{count - _SHOWN} more of {code}; -o json has all")
    return 3 if findings else 0


app = command(doctor)
