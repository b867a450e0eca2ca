"""`isthmus demo`: the whole path on this machine, from a registry to requests through a real Envoy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from isthmus.cli.command import command
from isthmus.cli.demo.check import app as check_app
from isthmus.cli.demo.programs import DemoError
from isthmus.cli.demo.run import Options, run_demo
from isthmus.cli.demo.service import app as service_app
from isthmus.cli.output import CommandError, Flag


def demo(
    *,
    once: Flag = False,
    json: Flag = False,
    registry: Literal["file", "consul"] = "file",
    envoy: Path | None = None,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    directory: Annotated[Path | None, Parameter(env_var="TMPDIR")] = None,
) -> int:
    """Show the whole path on this machine: a registry, the bridge, a real Envoy and a small application under load.

    Instances are added, made unhealthy and removed while requests flow; none may fail. Everything listens on 127.0.0.1, and
    nothing is left behind.

    Examples:
        isthmus demo

        isthmus demo --once --json | jq .registry_to_ack_ms

        isthmus demo --registry consul

    Args:
        once: End after the story; the exit status says whether all of it was true.
        json: Print the outcome as one JSON object (and end after the story).
        registry: Files in a temporary directory, or a real Consul agent.
        envoy: The Envoy to run; by default the one on PATH, else the newest that `make peers` fetched.
        port: Where Envoy listens for the application's requests; by default any free port.
        directory: Where the temporary directory is made.

    """
    try:
        return asyncio.run(run_demo(Options(once or json, json, registry, envoy, port, directory)))
    except DemoError as e:
        raise CommandError(str(e)) from None


app = command(demo)
app.command(service_app, name="service")
app.command(check_app, name="check")
