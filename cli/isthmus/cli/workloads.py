"""`isthmus workloads`: what has registered with the bridge itself."""

from __future__ import annotations

from rich.text import Text

from isthmus.bridge.answers import WorkloadState
from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import Output, duration, print_document, print_table

_COLUMNS = ("ID", "SERVICE", "ADDRESS", "PORTS", "HEALTH", "HEARD", "TTL", "EPOCH", "BRIDGE")
_STYLES = {"healthy": "green", "unhealthy": "red", "draining": "yellow"}


def workloads(*, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table") -> int:
    """List the workloads that have registered with the bridge itself, or with another replica that has the same store.

    HEARD is how long ago this replica knows of a heartbeat; BRIDGE is the replica that watches over them, and the one to ask.
    HELD: it is silent, and served all the same, because many are silent at once or that replica is; isthmus doctor says so, too.

    The exit status is 3 when one is held.

    Examples:
        isthmus workloads

        isthmus workloads -o json | jq -r '.[] | select(.health != "healthy") | .id'

    Args:
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    states = get(bridge, "/v1/workloads", list[WorkloadState])
    if output != "table":
        print_document(states, output)
    else:
        print_table(_COLUMNS, [_row(s) for s in states], f"no workload has registered with {bridge}")
    return 3 if any(s.held for s in states) else 0


def _row(state: WorkloadState) -> tuple[str | Text, ...]:
    return (
        state.id,
        state.service,
        state.address,
        ",".join(f"{name}={number}" for name, number in sorted(state.ports.items())),
        Text("HELD", "bold yellow") if state.held else Text(state.health, _STYLES.get(state.health, "")),
        duration(state.heard_s_ago),
        duration(state.ttl),
        str(state.epoch),
        state.bridge,
    )


app = command(workloads)
