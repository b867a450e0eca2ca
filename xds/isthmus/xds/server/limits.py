"""How much one client, and all together, may ask of the server."""

from __future__ import annotations

from typing import Annotated

import msgspec

from isthmus.xds.protocol.subscription import NAMES_LIMIT

BURST_SECONDS = 10.0
"""A client that was quiet may send at once what it could have sent in this time: many requests come when it connects."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `xds.limits` of the configuration. What goes beyond is refused with the setting's name, or waits."""

    streams: Annotated[int, msgspec.Meta(ge=1)] = 20_000
    """Open at once, of all clients."""
    subscriptions: Annotated[int, msgspec.Meta(ge=1, le=NAMES_LIMIT)] = NAMES_LIMIT
    """Names that one stream may ask for, all types together."""
    message_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 28)] = 16 << 20
    """Of one request: an acknowledgement that names 100,000 clusters has room."""
    node_bytes: Annotated[int, msgspec.Meta(ge=1 << 10, le=1 << 28)] = 512 << 10
    """Of the node in a stream's first request; Envoy's has about 60 KB of extension names."""
    requests_per_second: Annotated[float, msgspec.Meta(ge=1)] = 100.0
    """On one stream. Not refused: beyond it the stream is read more slowly."""
    first_request_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30.0
    """Within which a stream has to say something, once it is open. Clients do so at once."""


class Pace:
    """A token bucket in one number: when it will be full again."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at = 0.0

    def take(self, now: float, per_second: float) -> None:
        """Use up one request."""
        self._full_at = max(self._full_at, now) + 1 / per_second

    def delay(self, now: float) -> float:
        """Seconds until the next request may be looked at; 0 for now."""
        return max(0.0, self._full_at - now - BURST_SECONDS)
