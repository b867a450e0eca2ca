"""`isthmus serve`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from isthmus.bridge import logs
from isthmus.bridge.bridge import StartError
from isthmus.bridge.config import load
from isthmus.bridge.preflight import PreflightError, preflight
from isthmus.bridge.run import run
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Flag, note
from isthmus.registry.settings import ConfigError


def serve(
    *,
    config: Annotated[Path, Parameter(alias="-c")] = Path("isthmus.yaml"),
    check: Flag = False,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:
    """Run the bridge: read the registries and serve Envoys.

    SIGHUP, or a change of the file, reloads the registries; a file with an error changes nothing. SIGTERM drains and ends
    with status 0; a crash ends with status 70. Logs go to standard error, as JSON unless that is a terminal.

    Examples:
        isthmus serve -c isthmus.yaml

        isthmus serve -c isthmus.yaml --check && systemctl reload isthmus

    Args:
        config: The configuration file (docs/operate.md).
        check: Only say whether the file, and what it refers to on this machine, can be used.
        log_level: What is logged.

    """
    try:
        loaded = load(config)
        if check:
            for remark in preflight(loaded):
                note(remark)
            names = ", ".join(r.name for r in loaded.registries)
            sys.stdout.write(f"{config}: can be used; registries: {names}\n")
            return 0
        # Rich knows what this terminal can show, and NO_COLOR.
        terminal = Console(stderr=True)
        logs.configure(log_level, colors=terminal.color_system is not None and not terminal.no_color)
        return asyncio.run(run(config.absolute(), loaded))
    except (ConfigError, PreflightError, StartError) as e:
        raise CommandError(str(e)) from None


app = command(serve)
