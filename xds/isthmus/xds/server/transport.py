"""The edge between the xDS core and whatever speaks HTTP/2: events in, bytes out, no xDS words.

Rules of every implementation (`tests/contract/test_transport.py` is the suite that each passes):

- ids are unique for the process; OPEN comes first for an id, CLOSED last and once.
- `send` is synchronous, never blocks, keeps the order per stream and never raises for closed ids. A stream that still holds an
  unsent message refuses the next one, and reports exactly one WRITABLE when it can take one again: latest wins stays in the core.
- HALF_CLOSED (the client has finished sending) does not close. Inbound is bounded: a batch that is not drained stops reading.
- After `pause` no MESSAGE comes but those of the batch that is being handed over, until `resume`; then they come in the
  order of sending. The transport reads one message ahead at most, so flow control holds the client. CLOSED comes all the same.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec


class EventKind(enum.Enum):
    """What happened to a stream."""

    OPEN = "open"
    MESSAGE = "message"
    HALF_CLOSED = "half_closed"
    CLOSED = "closed"
    WRITABLE = "writable"


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to one stream; which fields are set depends on the kind."""

    kind: EventKind
    id: int
    path: str = ""
    peer: str = ""
    tls_identity: str = ""
    metadata: Mapping[str, str] = {}
    message: bytes = b""
    reason: str = ""


class TLSConfig(msgspec.Struct, frozen=True):
    """PEM bytes of the server's certificate chain and key, and of the authorities whose clients are let in (none: any)."""

    certificate: bytes
    key: bytes
    client_ca: bytes = b""


class Transport(Protocol):
    """A gRPC server of raw bidirectional streams."""

    def start(self, loop: asyncio.AbstractEventLoop, on_events: Callable[[list[Event]], None]) -> None:
        """Begin; events are handed over on the loop's thread, in batches."""
        ...

    async def listen(self, address: str, tls: Callable[[], TLSConfig] | None) -> str:
        """Serve on `host:port` (port 0: any) or `unix:/path`; returns the real address.

        `tls` is called for each connection, perhaps in another thread; another object than before means other certificates.

        Raises:
            OSError: the address cannot be bound.

        """
        ...

    def send(self, ids: Sequence[int], message: bytes) -> list[int]:
        """Send one message to many streams; returns the ids that refused because they still hold an unsent message."""
        ...

    def pause(self, ids: Sequence[int]) -> None:
        """Stop reading from streams; again, or of streams that are gone, means nothing."""
        ...

    def resume(self, ids: Sequence[int]) -> None:
        """Read from streams again."""
        ...

    def close(self, ids: Sequence[int], status: int, details: str) -> None:
        """End streams with a gRPC status, after the data that is queued."""
        ...

    async def stop(self, grace: float) -> None:
        """Stop accepting, end all streams within `grace` seconds, report CLOSED for each."""
        ...
