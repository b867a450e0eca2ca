"""What a protocol machine hands to the pump, and what it makes of a request."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

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
    brings the client to, `since` the generation of the earliest change that it brings. `removed` names what is gone and, in both
    variants, what was asked for and does not exist; the latter alone are in `unknown`.
    """

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()
    generation: int = 0
    since: int = 0
    is_initial: bool = False
    """It answers a subscription rather than bringing a change: its age says nothing about how quick a change was."""


class Sent(msgspec.Struct, frozen=True):
    """A response in flight. `undo` is what the client had before it, where it had anything.

    `fresh` names what the response adds or changes, of all that it brings; None if that is all of it. `asked` names, of a type
    whose responses are the whole truth, what the client asked for by name and is answered with it.
    """

    response: Response
    undo: Mapping[str, Resource]
    fresh: Collection[str] | None
    asked: frozenset[str] = frozenset()


class Received(msgspec.Struct, frozen=True):
    """What `receive` made of a request.

    `settled` is the response that it acknowledges or rejects, `error` the client's text, `parked` the resources that it names:
    the client goes on with what it had under these names until they change.
    """

    outcome: Outcome
    type_url: str
    settled: Response | None = None
    error: str = ""
    parked: tuple[str, ...] = ()


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
    parked: tuple[str, ...] = ()
    """Names whose present content the client has refused; it goes on with what it had."""
    error: str = ""
    """The text of the last NACK, until a later response is acknowledged."""
