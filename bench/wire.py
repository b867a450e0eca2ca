"""What goes over the wire between an Envoy and the bridge, seen by a relay between the two.

Neither side is asked anything, so that the measurement costs the bridge nothing but the relay's own delay (about 0.1 ms each
way, which the figures contain). HTTP/2 is understood as far as needed: DATA frames of one stream after another carry gRPC
messages, each five bytes of head and a protobuf message (RFC 9113 section 4.1; gRPC over HTTP/2, Length-Prefixed-Message).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from isthmus.xds.resource import TypeUrl

_PREFACE = 24
_FRAME_HEAD = 9
_MESSAGE_HEAD = 5
_DATA = 0
_PADDED = 0x8

Shows = Callable[[ClusterLoadAssignment], bool]


class Wire:
    """A relay in front of the bridge, for one Envoy that speaks delta ADS."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._expected: dict[str, list[tuple[Shows, asyncio.Future[float]]]] = {}
        self._unacknowledged: dict[str, list[asyncio.Future[float]]] = {}
        self.resources: Counter[str] = Counter()
        """Resources sent and removed, by type."""
        self.bytes = 0
        """Of the responses."""

    async def listen(self) -> str:
        """Begin; returns the address for Envoy."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Pipe(self._to, self._requested, self._responded, self._pipes), "127.0.0.1", 0
        )
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for pipe in list(self._pipes):
            pipe.close()

    def expect(self, cluster: str, shows: Shows) -> asyncio.Future[float]:
        """The monotonic second at which Envoy acknowledges the first load assignment of `cluster` from now on that `shows`.

        The future fails with ValueError when Envoy rejects it.
        """
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._expected.setdefault(cluster, []).append((shows, future))
        return future

    def _responded(self, message: bytes) -> None:
        response = DeltaDiscoveryResponse.FromString(message)
        self.bytes += len(message)
        self.resources[response.type_url] += len(response.resources) + len(response.removed_resources)
        if response.type_url != TypeUrl.ENDPOINT:
            return
        for resource in response.resources:
            expected = self._expected.get(resource.name)
            if not expected:
                continue
            assignment = ClusterLoadAssignment.FromString(resource.resource.value)
            shown = [item for item in expected if item[0](assignment)]
            self._expected[resource.name] = [item for item in expected if item not in shown]
            self._unacknowledged.setdefault(response.nonce, []).extend(future for _, future in shown)

    def _requested(self, message: bytes) -> None:
        now = time.monotonic()
        request = DeltaDiscoveryRequest.FromString(message)
        if not request.response_nonce or request.type_url != TypeUrl.ENDPOINT:
            return
        for future in self._unacknowledged.pop(request.response_nonce, ()):
            if future.done():
                continue
            if request.HasField("error_detail"):
                future.set_exception(ValueError(f"Envoy rejects {request.type_url}: {request.error_detail.message}"))
            else:
                future.set_result(now)


class _Pipe(asyncio.Protocol):
    """One connection of Envoy's, and the one to the bridge that belongs to it."""

    def __init__(
        self, port: int, requested: Callable[[bytes], None], responded: Callable[[bytes], None], pipes: set[_Pipe]
    ) -> None:
        self._port = port
        self._requests = _Messages(requested, _PREFACE)
        self._responses = _Messages(responded, 0)
        self._pipes = pipes
        self._early: list[bytes] = []
        self._envoy: asyncio.WriteTransport | None = None
        self._bridge: asyncio.WriteTransport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._envoy = transport
        self._pipes.add(self)
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                lambda: _Back(self.answered, self.close), "127.0.0.1", self._port
            )
        except OSError:
            self.close()
            return
        self._bridge = transport
        for piece in self._early:
            transport.write(piece)

    def data_received(self, data: bytes) -> None:
        if self._bridge is None:
            self._early.append(data)
        else:
            self._bridge.write(data)
        self._requests.feed(data)

    def answered(self, data: bytes) -> None:
        """Bytes from the bridge."""
        if self._envoy is not None:
            self._envoy.write(data)
        self._responses.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def close(self) -> None:
        """End both sides."""
        self._pipes.discard(self)
        for transport in (self._envoy, self._bridge):
            if transport is not None:
                transport.close()


class _Back(asyncio.Protocol):
    """The bridge's side of a pipe."""

    def __init__(self, answered: Callable[[bytes], None], closed: Callable[[], None]) -> None:
        self._answered = answered
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed()


class _Messages:
    """The gRPC messages of one direction of a connection that carries one stream at a time."""

    def __init__(self, deliver: Callable[[bytes], None], preface: int) -> None:
        self._deliver = deliver
        self._skip = preface
        self._bytes = bytearray()
        self._stream = 0
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data
        if self._skip:
            skipped = min(self._skip, len(self._bytes))
            del self._bytes[:skipped]
            self._skip -= skipped
        for stream, payload in self._frames():
            if stream != self._stream:
                self._stream = stream
                self._body.clear()
            self._body += payload
            self._cut()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Payloads of the complete DATA frames."""
        at = 0
        while len(self._bytes) - at >= _FRAME_HEAD:
            head = self._bytes[at : at + _FRAME_HEAD]
            end = at + _FRAME_HEAD + int.from_bytes(head[:3])
            if len(self._bytes) < end:
                break
            if head[3] == _DATA:
                payload = bytes(self._bytes[at + _FRAME_HEAD : end])
                yield int.from_bytes(head[5:]), payload[1 : len(payload) - payload[0]] if head[4] & _PADDED else payload
            at = end
        del self._bytes[:at]

    def _cut(self) -> None:
        at = 0
        while len(self._body) - at >= _MESSAGE_HEAD:
            if self._body[at]:
                raise ValueError("a compressed gRPC message: the relay does not understand it")
            end = at + _MESSAGE_HEAD + int.from_bytes(self._body[at + 1 : at + _MESSAGE_HEAD])
            if len(self._body) < end:
                break
            self._deliver(bytes(self._body[at + _MESSAGE_HEAD : end]))
            at = end
        del self._body[:at]
