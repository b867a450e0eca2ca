"""How commands print: aligned tables, colours on a terminal only, JSON and YAML for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "json", "yaml"]


class CommandError(Exception):
    """A command cannot do what it was asked; one sentence for the operator, and the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def print_document(document: Any, output: Format) -> None:
    """A value as JSON or YAML."""
    plain = msgspec.to_builtins(document)
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n")
    else:
        yaml.safe_dump(plain, sys.stdout, sort_keys=False, allow_unicode=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], empty: str) -> None:
    """Rows under headings, never cut when the output is not a terminal; `empty` is said when there are none."""
    if not rows:
        sys.stderr.write(f"{empty}\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=True, overflow="fold" if i == len(columns) - 1 else "ellipsis")
    for row in rows:
        table.add_row(*row)
    console.print(table)
