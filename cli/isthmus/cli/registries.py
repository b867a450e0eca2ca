"""`isthmus registries`: how each registry is doing."""

from __future__ import annotations

from rich.text import Text

from isthmus.bridge.answers import RegistryState
from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import Output, duration, note, print_document, print_table

_COLUMNS = (
    "REGISTRY",
    "KIND",
    "STATE",
    "SERVICES",
    "INSTANCES",
    "HELD",
    "LEFT OUT",
    "DRIFT",
    "FEED",
    "READS/MIN",
    "MAX CONN",
    "CURSOR",
    "ADDRESS",
)
_STYLES = {"SYNCED": "green", "NOT LISTED": "bold red", "IN DOUBT": "yellow"}


def registries(*, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table") -> int:
    """List the registries in order of precedence, and how each is doing.

    SYNCED: it was listed and is followed. STALE: it cannot be read; what it said last is served, for as long as that has
    lasted. NOT LISTED: it has not been read since the bridge started. IN DOUBT: what is absent from its answers proves nothing.

    HELD instances are served though it no longer lists them. LEFT OUT is what could not be used; isthmus doctor has the reasons.
    DRIFT counts differences that audits found. FEED is whether a registry that is to push its changes does: live, or why not; in
    any case it is polled. READS/MIN are those of the last minute, of as many as it may be asked; at most MAX CONN connections are
    open.

    The exit status is 3 when one is not SYNCED.

    Examples:
        isthmus registries

        isthmus registries -o json | jq -r '.[] | select(.stale_for_s) | .name'

    Args:
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    states = get(bridge, "/debug/registries", list[RegistryState])
    if output != "table":
        print_document(states, output)
    else:
        print_table(_COLUMNS, [_row(s) for s in states], f"{bridge} reads no registry")
        note_registries(states)
    return 0 if all(_word(s) == "SYNCED" for s in states) else 3


def note_registries(states: list[RegistryState]) -> None:
    """A sentence for each registry that is not followed as it should be."""
    for state in states:
        reason = {"SYNCED": "", "IN DOUBT": f"in doubt: {state.doubt}"}.get(_word(state))
        if reason is None:
            served = "what it said last is served" if state.services else "nothing of it is known"
            lasting = "" if state.stale_for_s is None else f" for {duration(state.stale_for_s)}"
            reason = f"cannot be read{lasting}, {served}: {state.error}" if state.error else "is being listed"
        if reason:
            note(f"registry {state.name}: {reason}")


def _word(state: RegistryState) -> str:
    if not state.synced:
        return "NOT LISTED"
    if state.stale_for_s is not None:
        return f"STALE {duration(state.stale_for_s)}"
    return "IN DOUBT" if state.doubt else "SYNCED"


def _row(state: RegistryState) -> tuple[str | Text, ...]:
    word = _word(state)
    return (
        state.name,
        state.kind,
        Text(word, _STYLES.get(word, "red")),
        str(state.services),
        str(state.instances),
        _count(state.held, "yellow"),
        _count(state.quarantined, "yellow"),
        _count(state.drift, "red"),
        Text(state.feed, "" if state.feed in ("", "live") else "yellow"),
        str(state.reads_last_minute) + ("" if state.max_reads_per_minute is None else f"/{state.max_reads_per_minute}"),
        "" if state.max_connections is None else f"{state.max_connections}",
        state.cursor,
        state.address,
    )


def _count(count: int, style: str) -> Text:
    return Text(str(count), style if count else "")


app = command(registries)
