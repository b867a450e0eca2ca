"""`isthmus explain`: why something is as it is."""

from __future__ import annotations

import sys
from itertools import groupby

from cyclopts import App
from rich.text import Text

from isthmus.bridge.answers import Stage, Verdict, Walk
from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import Output, print_document, print_table

_STYLES = {Verdict.PASSED: "green", Verdict.CHANGED: "yellow", Verdict.DROPPED: "bold red", Verdict.ABSENT: "dim"}
_PROXIES = 5
"""Proxies one after the other that have acknowledged and are named; more are counted."""


def endpoint(
    service: str, address: str, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table"
) -> int:
    """Say whether an instance gets requests, and if not which stage on its way from the registry to the proxies is the reason.

    The stages: registry (who lists it), filter (it could not be used), health, guard (held, though no longer listed), drain
    (on its way out), merge (of all registries), translate (Envoy's cluster), proxy (what each has acknowledged).

    The exit status is 0 when it gets requests from every connected proxy, and 3 when not.

    Examples:
        isthmus explain endpoint reviews 10.0.0.7:9080

        isthmus explain endpoint reviews.default [2001:db8::7]:9080 -o json | jq -r .answer

    Args:
        service: The service; name.namespace where the name is in several.
        address: ADDRESS:PORT at which the instance listens, or unix:///path.
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    walk = get(bridge, "/debug/explain", Walk, service=service, endpoint=address)
    if output != "table":
        print_document(walk, output)
    else:
        sys.stdout.write(f"{walk.endpoint} of {walk.service}: {walk.answer}\n\n")
        print_table(("STAGE", "WHERE", "VERDICT", "WHAT"), [_row(s) for s in _folded(walk.stages)], "")
    return 0 if walk.serving else 3


def _folded(stages: tuple[Stage, ...]) -> list[Stage]:
    """The stages, with many proxies that have acknowledged one resource in one row."""
    out: list[Stage] = []
    for is_followed, group in groupby(stages, key=lambda s: s.stage == "proxy" and s.verdict is Verdict.PASSED):
        members = list(group)
        if is_followed and len(members) > _PROXIES:
            members = [Stage("proxy", f"{len(members)} proxies", Verdict.PASSED, members[0].text)]
        out += members
    return out


def _row(stage: Stage) -> tuple[str | Text, ...]:
    return stage.stage, stage.where, Text(stage.verdict.value, _STYLES[stage.verdict]), stage.text


app = App(
    name="explain",
    help="Say why something is as it is.",
    help_format="plaintext",
    help_epilogue="Examples:\n  isthmus explain endpoint reviews 10.0.0.7:9080",
)
app.command(command(endpoint))
