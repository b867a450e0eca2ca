"""A command out of a function: its docstring is the help, examples included."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from cyclopts import App

_SECTION = re.compile(r"^(Examples|Args):\n", re.MULTILINE)


def command(function: Callable[..., Any], name: str = "") -> App:
    """The command of a function. Its docstring has paragraphs, then `Examples:` with one command line each, then `Args:`."""
    parts = _SECTION.split(inspect.getdoc(function) or "")
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    examples = [line.strip() for line in sections.get("Examples", "").splitlines() if line.strip()]
    app = App(
        name=name or function.__name__.replace("_", "-"),
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in parts[0].strip().split("\n\n")),
        help_format="plaintext",
        help_epilogue="\n".join(["Examples:", *(f"  {line}" for line in examples)]) if examples else None,
    )
    app.default(function)
    return app
