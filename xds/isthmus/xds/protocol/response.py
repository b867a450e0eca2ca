"""What a protocol machine hands to the pump, and what it makes of a request."""

from __future__ import annotations

import enum

import msgspec

from isthmus.xds.resource import Resource


class Outcome(enum.Enum):
    """What a request turned out to be."""

    SUBSCRIBED = "subscribed"
    """It says what the client wants; it settles no response."""
    ACKED = "acked"
    NACKED = "nacked"
    STALE = "stale"
    """It answers a response that has been superseded."""


class Response(msgspec.Struct, frozen=True):
    """One response, not yet encoded. Streams that are sent the same content share the encoded bytes.

    `type_url` is the client's word: delta answers for types that are not served too. `generation` is the snapshot's that it
    brings the client to. `removed` is used by delta alone.
    """

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    generation: int = 0
    is_initial: bool = False
    """It answers a subscription rather than bringing a change: its age says nothing about how quick a change was."""


class Received(msgspec.Struct, frozen=True):
    """What `receive` made of a request. `settled` is the response it acknowledges or rejects, `error` the client's text."""

    outcome: Outcome
    type_url: str
    settled: Response | None = None
    error: str = ""


class TypeStatus(msgspec.Struct, frozen=True):
    """Where one type stands on one stream. Versions are empty strings until there is one."""

    type_url: str
    sent: str = ""
    acked: str = ""
    in_flight: bool = False
    pending: bool = False
    """There is something to send, which waits for an acknowledgement or for its turn."""
    wildcard: bool = False
    subscribed: int = 0
    sent_generation: int = 0
    acked_generation: int = 0
    error: str = ""
    """The text of the last NACK, until a later response is acknowledged."""
