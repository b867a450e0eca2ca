"""How commands print: aligned tables, colours on a terminal only, JSON and YAML for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import yaml
from cyclopts import Parameter
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Format = Literal["table", "json", "yaml"]
Output = Annotated[Format, Parameter(alias="-o")]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]

GAP = "  "


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
    """Rows under headings, aligned and never cut; `empty` is said on standard error when there are none."""
    if not rows:
        note(empty)
        return
    cells = [[Text(c, "bold") for c in columns], *([_visible(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(row[i].plain) for row in cells) for i in range(len(columns))]
    console = Console(highlight=False)
    for row in cells:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell_len(cell.plain)) + GAP)
        line.rstrip()
        console.print(line, soft_wrap=True)


def note(text: str) -> None:
    """A sentence on standard error, beside what goes to standard output."""
    sys.stderr.write(f"isthmus: {_visible(text).plain}\n")


def duration(seconds: float) -> str:
    """How long something lasts, in the largest unit of which there are at least two."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _visible(cell: str | Text) -> Text:
    """What registries and proxies call things must not move the cursor of who looks at it."""
    text = cell if isinstance(cell, Text) else Text(cell)
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text.plain)
    return Text(plain or "-", text.style)
