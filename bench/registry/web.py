"""A small HTTP/1.1 server for scripted registries: only GET, answers now or later, and everything is counted.

The servers of this benchmark stand for programs written in Go and Java. They share the machine with what is measured, so they are
to cost little: a request is split by hand, and an answer is one write.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, unquote

_REASONS = {200: "OK", 404: "Not Found", 400: "Bad Request"}
MAX_HEAD = 64 * 1024


class Request:
    """One request, to be answered once: by `answer`, or by `begin` and any number of `send`."""

    def __init__(self, connection: _Connection, target: str, headers: Mapping[str, str]) -> None:
        path, _, query = target.partition("?")
        self.path = unquote(path)
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.headers = headers
        self._connection = connection

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._connection.closed

    def answer(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        """The whole answer."""
        said = {"Content-Type": "application/json", "Content-Length": str(len(body))} | dict(headers or {})
        self._connection.write(_head(status, said) + body, last=True)

    def begin(self) -> None:
        """The head of an answer that does not end."""
        self._connection.write(
            _head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}), last=False
        )

    def send(self, body: bytes) -> None:
        """A further part of it."""
        self._connection.write(b"%x\r\n%s\r\n" % (len(body), body), last=False)


class Web:
    """Hands each request to `handle`. `requests` and `most_connections` count since the beginning."""

    def __init__(self, handle: Callable[[Request], None]) -> None:
        self.handle = handle
        self.requests = 0
        self.connections: set[asyncio.Transport] = set()
        self.most_connections = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on 127.0.0.1; returns the port."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def opened(self, connection: asyncio.Transport) -> None:
        self.connections.add(connection)
        if len(self.connections) > self.most_connections:
            self.most_connections = max(self.most_connections, self._open())

    def _open(self) -> int:
        """The connections whose clients have not closed them, known here or not: who closes one and opens another has one."""
        poll = select.poll()
        for connection in self.connections:
            poll.register(connection.get_extra_info("socket"), select.POLLRDHUP)
        return len(self.connections) - len(poll.poll(0))

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        while self.connections:  # noqa: ASYNC110 - a turn of the loop or two
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    def __init__(self, web: Web) -> None:
        self._web = web
        self._received = bytearray()
        self._busy = False
        self._transport: asyncio.Transport | None = None

    @property
    def closed(self) -> bool:
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._web.opened(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._transport is not None
        self._web.connections.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def write(self, what: bytes, *, last: bool) -> None:
        if self._transport is not None:
            self._transport.write(what)
        if last:
            self._busy = False
            self._next()

    def _next(self) -> None:
        if self._busy:
            return
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            assert len(head) <= MAX_HEAD, "a request without an end"
            return
        self._received = rest
        self._busy = True
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {key.lower(): value.strip() for key, _, value in (text.partition(":") for text in lines)}
        request = Request(self, target, headers)
        self._web.requests += 1
        if method == "GET":
            self._web.handle(request)
        else:
            request.answer(b"only GET", status=400)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Said')}\r\n{lines}\r\n".encode()
