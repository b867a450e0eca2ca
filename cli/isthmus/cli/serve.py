"""`isthmus serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from isthmus.bridge import logs
from isthmus.bridge.bridge import StartError
from isthmus.bridge.config import ConfigError, load
from isthmus.bridge.run import run
from isthmus.cli.output import CommandError


def register(app: App) -> None:
    """Add the command."""
    app.command(serve)


def serve(
    *,
    config: Annotated[Path, Parameter(alias="-c")] = Path("isthmus.yaml"),
    check: Annotated[bool, Parameter(negative=())] = False,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Run the bridge: read the registries and serve Envoys.

    SIGHUP, or a change of the file, reloads the registries; SIGTERM drains and ends.

    Examples:
        isthmus serve -c isthmus.yaml

        isthmus serve -c isthmus.yaml --check && systemctl reload isthmus

    Args:
        config: The configuration file (docs/operate.md).
        check: Only say whether the file can be used.
        log_level: What is logged.

    """
    try:
        loaded = load(config)
    except ConfigError as e:
        raise CommandError(str(e)) from None
    if check:
        print(f"{config}: fine; {len(loaded.registries)} registries")  # noqa: T201
        return
    logs.configure(log_level)
    try:
        asyncio.run(run(config.absolute(), loaded))
    except StartError as e:
        raise CommandError(str(e)) from None
