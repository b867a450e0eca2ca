"""`isthmus version`."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated

from cyclopts import App, Parameter

from isthmus.cli.output import Format, print_document, print_table

LIBRARIES = ("grpcio", "protobuf", "xds-protos", "aiohttp", "msgspec")

text = importlib.metadata.version("isthmus")


def register(app: App) -> None:
    """Add the command."""
    app.command(version)


def version(*, output: Annotated[Format, Parameter(alias="-o")] = "table") -> None:
    """Say which Isthmus this is, and with which libraries.

    Args:
        output: As a table, JSON or YAML.

    """
    versions = {"isthmus": text, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    if output == "table":
        print_table(("NAME", "VERSION"), list(versions.items()), "")
    else:
        print_document(versions, output)
