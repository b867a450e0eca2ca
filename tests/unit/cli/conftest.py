"""Commands as they are typed, and somebody whom they ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import pytest

from isthmus.cli.main import main


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `isthmus` with words and variables of the environment."""
    for name in ("ISTHMUS_BRIDGE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str, **environment: str) -> Done:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["isthmus", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return run


class Pretender(ThreadingHTTPServer):
    """An HTTP server that answers the paths in `more`, all others with `content`, and remembers what was asked last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.content = b""
        self.more: dict[str, bytes] = {}
        self.asked = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def says(self, document: Any, status: int = 200) -> str:
        """Answer with that from now on; returns the address."""
        self.content, self.status = json.dumps(document).encode(), status
        return self.address


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Pretender)
        server.asked = f"{self.command} {self.path}"
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(server.more.get(self.path, server.content))

    do_POST = do_GET  # noqa: N815 - the name is given

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Silence."""


@pytest.fixture
def pretender() -> Iterator[Pretender]:
    server = Pretender()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
