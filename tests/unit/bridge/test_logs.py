"""One JSON object per line for machines, a line in colours for people, secrets for nobody."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from isthmus.bridge import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object() -> None:
    out = io.StringIO()
    logs.configure("info", out)

    structlog.get_logger().warning("registry.stale", origin="consul", error="connection\nrefused")

    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "registry.stale", "level": "warning", "origin": "consul", "error": "connection\nrefused"}


def test_what_is_below_the_level_is_left_out() -> None:
    out = io.StringIO()
    logs.configure("warning", out)

    structlog.get_logger().info("registry.synced")

    assert out.getvalue() == ""


@pytest.mark.parametrize("colors", [True, False])
def test_people_get_a_line_to_read(colors: bool) -> None:
    out = Terminal()
    logs.configure("info", out, colors=colors)

    structlog.get_logger().info("registry.synced", origin="consul")

    assert "registry.synced" in out.getvalue()
    assert not out.getvalue().startswith("{")
    assert ("\x1b[" in out.getvalue()) is colors


def test_libraries_that_use_the_standard_library_take_the_same_road() -> None:
    out = io.StringIO()
    logs.configure("info", out)

    logging.getLogger("aiohttp.server").error("Error handling request from %s", "10.0.0.1")
    logging.getLogger("asyncio").debug("not this")

    (line,) = lines(out)
    assert line["event"] == "Error handling request from 10.0.0.1"
    assert (line["level"], line["logger"]) == ("error", "aiohttp.server")


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("library")], ids=["structlog", "logging"])
def test_a_traceback_has_no_variables(make: type[io.StringIO], log: Any) -> None:
    """Tokens are among them."""
    out = make()
    logs.configure("info", out)

    try:
        fail("-".join(("s3cr3t", "t0ken")))  # not as a traceback shows its source
    except ValueError:
        log.exception("it broke")

    assert "ValueError" in out.getvalue()
    assert "s3cr3t-t0ken" not in out.getvalue()


def fail(token: str) -> None:
    raise ValueError(len(token))
