"""`isthmus holds`: what is served although its registry no longer lists it."""

from __future__ import annotations

import sys

from isthmus.bridge.answers import Held, Released
from isthmus.cli.asking import BridgeAddress, get, post
from isthmus.cli.command import command
from isthmus.cli.output import Output, duration, print_document, print_table

_COLUMNS = ("SERVICE", "INSTANCE", "ADDRESS", "REGISTRY", "HELD FOR", "ENDS IN", "RULE", "REASON")


def holds(*, bridge: BridgeAddress = "127.0.0.1:15014", output: Output = "table") -> None:
    """List the instances that are held: served although their registry no longer lists them, which is not believed yet.

    ENDS IN is empty where they are held for as long as the reason lasts. RULE is which one holds them: doubt (the registry says
    itself that its answers are not whole), position (it went back), unlisted (it may not name all services), guard.shrink, or the
    one of guard.services. Nothing is to be done if the registry will list them
    again. If it is true that they are gone, release them.

    Examples:
        isthmus holds

        isthmus holds release reviews

    Args:
        bridge: The bridge's HTTP address.
        output: As a table, JSON or YAML.

    """
    held = get(bridge, "/debug/holds", list[Held])
    if output != "table":
        print_document(held, output)
        return
    print_table(_COLUMNS, [_row(h) for h in held], f"nothing is held by {bridge}")


def release(name: str, /, *, bridge: BridgeAddress = "127.0.0.1:15014") -> None:
    """Let go of the held instances of one service: its registry is right, they are gone.

    They finish what they have, like every instance that leaves (drain.grace).

    Examples:
        isthmus holds release reviews

        isthmus holds release reviews.default

    Args:
        name: The service; name.namespace where the name is in several.
        bridge: The bridge's HTTP address.

    """
    released = post(bridge, "/holds/release", Released, service=name)
    plural = "instance is" if released.instances == 1 else "instances are"
    sys.stdout.write(f"{released.instances} {plural} no longer held of {released.service}\n")


def _row(held: Held) -> tuple[str, ...]:
    return (
        held.service,
        held.instance,
        held.address,
        held.origin,
        duration(held.held_for_s),
        "" if held.ends_in_s is None else duration(held.ends_in_s),
        held.rule,
        held.reason,
    )


app = command(holds)
app.command(command(release))
