"""`isthmus version`."""

from __future__ import annotations

import importlib.metadata
import platform

from isthmus.cli.command import command
from isthmus.cli.output import Output, print_document, print_table

LIBRARIES = ("grpcio", "protobuf", "xds-protos", "aiohttp", "msgspec")


def version(*, output: Output = "table") -> None:
    """Say which Isthmus this is, and with which libraries.

    Examples:
        isthmus version -o json | jq -r .isthmus

    Args:
        output: As a table, JSON or YAML.

    """
    versions = {"isthmus": importlib.metadata.version("isthmus"), "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    if output == "table":
        print_table(("NAME", "VERSION"), list(versions.items()), "")
    else:
        print_document(versions, output)


app = command(version)
