"""The transport on grpc.aio: raw bytes through C-core, one task per stream.

A stream's handler task writes, a second one reads. At most one message is on its way per stream; while it is, `send` refuses and
WRITABLE follows, so a slow reader costs one message of memory whatever happens meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from isthmus.xds.server.transport import Event, EventKind, TLSConfig

MAX_MESSAGE = 32 << 20
"""Bytes of one request that are read at all; gRPC ends the stream with a text of its own when there are more."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A taken port must be an error, not a second server that gets every other connection.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 2**31 - 1),
    # The defaults (1,000 and 3,000) cancel streams when thousands of proxies come back at once.
    ("grpc.server.max_pending_requests", 1_000_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class _Stream:
    """One open call."""

    __slots__ = ("busy", "id", "idle", "message", "refused", "resumed", "status")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.message: bytes | None = None
        self.busy = False
        self.refused = False
        self.status: tuple[int, str] | None = None
        self.idle: asyncio.Future[None] | None = None
        """Set when there is something to write or the stream ends; None while it is being written to."""
        self.resumed: asyncio.Future[None] | None = None
        """Set when the stream is to be read from again; None while it is."""

    def wake(self) -> None:
        """There is something to write, or the stream is to end."""
        idle, self.idle = self.idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)


class GrpcAioTransport:
    """`isthmus.xds.server.transport.Transport` on grpc.aio. Events are handed over one by one, as they happen."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._options = (*_OPTIONS, ("grpc.max_receive_message_length", max_message))
        self._servers: list[grpc.aio.Server] = []
        self._streams: dict[int, _Stream] = {}
        self._ids = itertools.count(1)
        self._on_events: Callable[[list[Event]], None] = lambda _: None

    def start(self, loop: asyncio.AbstractEventLoop, on_events: Callable[[list[Event]], None]) -> None:
        """Begin; grpc.aio runs on the loop that is running, which must be `loop`."""
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError("grpc.aio serves on the running loop only")
        self._on_events = on_events

    async def listen(self, address: str, tls: Callable[[], TLSConfig] | None) -> str:
        """Serve on `host:port` (port 0: any) or `unix:/path`; returns the real address.

        Raises:
            OSError: the address cannot be bound.

        """
        await _try_to_bind(address)
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((_AnyMethod(self._serve if tls is None else self._serve_with_tls),))
        try:
            port = (
                server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
            )
        except RuntimeError as e:
            raise OSError(f"cannot listen on {address}: {e}") from None
        await server.start()
        self._servers.append(server)
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def send(self, ids: Sequence[int], message: bytes) -> list[int]:
        """Send one message to many streams; returns the ids that refused."""
        refused: list[int] = []
        for stream_id in ids:
            stream = self._streams.get(stream_id)
            if stream is None or stream.status is not None:
                continue
            if stream.busy:
                stream.refused = True
                refused.append(stream_id)
                continue
            stream.busy = True
            stream.message = message
            stream.wake()
        return refused

    def pause(self, ids: Sequence[int]) -> None:
        """Stop reading from streams."""
        for stream_id in ids:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.resumed is None:
                stream.resumed = asyncio.get_running_loop().create_future()

    def resume(self, ids: Sequence[int]) -> None:
        """Read from streams again."""
        for stream_id in ids:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.resumed is not None:
                resumed, stream.resumed = stream.resumed, None
                if not resumed.done():
                    resumed.set_result(None)

    def close(self, ids: Sequence[int], status: int, details: str) -> None:
        """End streams with a gRPC status, after the message that is on its way."""
        for stream_id in ids:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.status is None:
                stream.status = (status, details)
                stream.wake()

    async def stop(self, grace: float) -> None:
        """Stop accepting; end every stream with UNAVAILABLE, which clients take as "come back", within `grace` seconds."""
        stopping = [asyncio.ensure_future(server.stop(grace)) for server in self._servers]
        self.close(list(self._streams), grpc.StatusCode.UNAVAILABLE.value[0], "the server is shutting down")
        await asyncio.gather(*stopping)

    async def _serve_with_tls(self, path: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await self._serve(path, context, _tls_identity(context))

    async def _serve(self, path: str, context: grpc.aio.ServicerContext[bytes, bytes], tls_identity: str = "") -> None:
        stream = _Stream(next(self._ids))
        self._streams[stream.id] = stream
        self._emit(
            Event(
                EventKind.OPEN,
                stream.id,
                path=path,
                peer=context.peer(),
                tls_identity=tls_identity,
                metadata={str(k): v for k, v in context.invocation_metadata() or () if isinstance(v, str)},
            )
        )
        reader = asyncio.ensure_future(self._read(stream, context))
        reason = "cancelled by the client"
        try:
            reason = await self._write(stream, context)
        finally:
            reader.cancel()
            del self._streams[stream.id]
            self._emit(Event(EventKind.CLOSED, stream.id, reason=reason))
        if stream.status is not None and stream.status[0]:
            await context.abort(_STATUS[stream.status[0]], stream.status[1])

    async def _read(self, stream: _Stream, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            # At the end it is grpc.aio.EOF, of which the stubs know nothing.
            while isinstance(message := await context.read(), bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
                while stream.resumed is not None:
                    await stream.resumed
                self._emit(Event(EventKind.MESSAGE, stream.id, message=message))
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            return  # the call has ended; its handler is being cancelled and reports that
        self._emit(Event(EventKind.HALF_CLOSED, stream.id))

    async def _write(self, stream: _Stream, context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
        """Write until the stream is closed; returns why it was."""
        while True:
            if stream.message is None and stream.status is None:
                stream.idle = asyncio.get_running_loop().create_future()
                await stream.idle
            if stream.message is not None:
                message, stream.message = stream.message, None
                try:
                    await context.write(message)
                except (grpc.aio.BaseError, asyncio.InvalidStateError) as e:
                    return f"write failed: {e}"
                stream.busy = False
                if stream.refused:
                    stream.refused = False
                    self._emit(Event(EventKind.WRITABLE, stream.id))
            if stream.status is not None and stream.message is None:
                return stream.status[1]

    def _emit(self, event: Event) -> None:
        self._on_events([event])


class _AnyMethod(grpc.GenericRpcHandler):
    """Takes every method as a raw bidirectional stream; the core decides which paths exist."""

    def __init__(self, serve: Callable[[str, grpc.aio.ServicerContext[bytes, bytes]], Any]) -> None:
        self._serve = serve

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        path = handler_call_details.method

        async def serve(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._serve(path, context)

        return grpc.stream_stream_rpc_method_handler(serve)


_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def _credentials(tls: Callable[[], TLSConfig]) -> grpc.ServerCredentials:
    """Certificates that may change. Whether clients must have one is settled at the beginning."""
    used = tls()

    def certificates() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(used.key, used.certificate)], used.client_ca or None)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        before, used = used, tls()
        return None if used is before else certificates()

    # The stubs do not know that None means "as before".
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed)
    return grpc.dynamic_ssl_server_credentials(certificates(), fetch, bool(used.client_ca))


def _tls_identity(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    """The client certificate's first URI or DNS name, empty without one."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return next((n.decode() for n in names), "")


async def _try_to_bind(address: str) -> None:
    """gRPC hides why it cannot bind; the system says it."""
    if address.startswith("unix:"):
        return
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    for family, kind, protocol, _, place in await loop.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(place)
            except OSError as e:
                raise OSError(e.errno, os.strerror(e.errno) if e.errno else str(e), address) from None
