"""`isthmus parity`: what each of two registries alone knows."""

from __future__ import annotations

from rich.text import Text

from isthmus.bridge.answers import RegistryState
from isthmus.cli.asking import BridgeAddress, get
from isthmus.cli.command import command
from isthmus.cli.output import Output, note, print_document, print_table
from isthmus.cli.registries import note_registries
from isthmus.registry.parity import Parity


def parity(first: str, second: str, /, *, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table") -> int:
    """Compare what two registries list: services, instances by their address and port, health, ports.

    One row for each difference, with what each registry says of it, a dash where it knows nothing of it.

    The exit status is 0 when they list the same and 3 when they differ.

    Examples:
        isthmus parity eureka consul

        isthmus parity eureka consul -o json | jq -r '.differences[] | select(.second == "") | .service' | sort -u

    Args:
        first: A registry's name in isthmus.yaml, such as the one that you leave.
        second: Another one's, such as the one that you move to.
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    found = get(bridge, "/debug/parity", Parity, first=first, second=second)
    states = get(bridge, "/debug/registries", list[RegistryState])
    note_registries([s for s in states if s.name in (first, second)])
    if output != "table":
        print_document(found, output)
    else:
        rows = [(d.service, d.what, _said(d.first), _said(d.second)) for d in found.differences]
        columns = ("SERVICE", "WHAT", found.first.upper(), found.second.upper())
        print_table(columns, rows, f"{first} and {second} list the same")
        counted = (
            f"{n}: {s} services, {i} instances"
            for n, s, i in zip((first, second), found.services, found.instances, strict=True)
        )
        note(f"{'; '.join(counted)}; the same in both: {found.same}")
    return 3 if found.differences else 0


def _said(text: str) -> Text:
    return Text(text, "" if text else "red")


app = command(parity)
