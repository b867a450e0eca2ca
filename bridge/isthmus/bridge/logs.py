"""Logs: for people on a terminal, JSON otherwise. Event names are API."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor


def configure(level: str, stream: TextIO | None = None, *, colors: bool = False) -> None:
    """Send events at or above `level` to a stream (standard error by default), as one JSON object per line unless it is a
    terminal. What libraries log through the standard library takes the same road, from warnings upwards.
    """
    out = sys.stderr if stream is None else stream
    human = out.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        TimeStamper(fmt="%H:%M:%S.%f" if human else "iso", utc=not human),
    ]
    # Neither renderer may show the variables of a traceback: tokens are among them.
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
        if human
        else [
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            JSONRenderer(_to_json),
        ]
    )
    logger = structlog.PrintLogger(out)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One for all: to make one for every event takes as long as to write it.
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _to_json(event: object, **_: object) -> str:
    """An event as one line; what has no form of its own in JSON is shown as Python shows it."""
    return msgspec.json.encode(event, enc_hook=repr, order="sorted").decode()
