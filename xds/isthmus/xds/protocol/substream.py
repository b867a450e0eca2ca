"""One type on one stream, whichever variant of the protocol: what each request and each response makes of it.

What the client is taken to have, and so what is due, is kept by its `Holdings`; what it has refused, by its `Parking`.

At most one response is in flight. The first request that bears its nonce settles it; later ones with that nonce only subscribe,
for a client repeats the nonce whenever it asks for more, also after a refusal.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.holdings import Holdings, Telling
from isthmus.xds.protocol.parking import Parking
from isthmus.xds.protocol.refusal import TEXT_LIMIT, is_partial
from isthmus.xds.protocol.response import Outcome, Received, Response, Sent, TypeStatus
from isthmus.xds.protocol.subscription import NO_SHIFT, Shift, Subscription
from isthmus.xds.resource import WHOLE_TYPES, Resource, SetVersion

Request = TypeVar("Request", DiscoveryRequest, DeltaDiscoveryRequest)

Memo = dict[Any, Any]
"""Responses that streams share, by all that they depend on. It belongs to one generation."""

MEMO_LIMIT = 256
"""Different responses that are kept to be shared; beyond, they are built anew."""


class Substream(abc.ABC, Generic[Request]):
    """What the variants share. They differ in how a request reads, what can be told, and what a response carries."""

    __slots__ = (
        "_acked_generation",
        "_acked_version",
        "_answering",
        "_due",
        "_error",
        "_generation",
        "_kind",
        "_nonce",
        "_plain_generation",
        "_sent",
        "_sent_generation",
        "_sent_version",
        "_since",
        "_suffixes",
        "_version",
        "holdings",
        "opened",
        "parking",
        "refused",
        "returning",
        "subscription",
        "type_url",
        "warming",
    )

    def __init__(
        self,
        type_url: str,
        resources: Mapping[str, Resource],
        generation: int,
        version: SetVersion,
        kind: Kind,
    ) -> None:
        self.type_url = type_url
        self._kind = kind
        # gRPC's libraries never mean everything: one that has given up all its names may come back with an empty list
        # (grpc/grpc-go#7013).
        self.subscription = Subscription(type_url in WHOLE_TYPES, allows_legacy=kind is Kind.ENVOY)
        telling = self._telling(type_url, kind)
        self.holdings = Holdings(self.subscription, telling, resources, version)
        self.parking = Parking(self.holdings, telling, resources, version)
        self._sent: Sent | None = None
        self.warming = False
        """The response in flight adds something."""
        self.refused = False
        """The last settled response was refused."""
        self.opened = False
        self.returning = False
        """The client came with versions that it holds from an earlier stream."""
        self._generation = generation
        self._version = version
        self._due = False
        self._answering = False
        self._since = generation
        self._nonce = ""
        self._plain_generation = 0
        self._suffixes = 0
        self._error = ""
        self._sent_version = self._acked_version = ""
        self._sent_generation = self._acked_generation = 0

    @abc.abstractmethod
    def receive(self, request: Request) -> Received:
        """Take one request of this type.

        Raises:
            ProtocolError: it cannot be answered.

        """

    @staticmethod
    @abc.abstractmethod
    def _telling(type_url: str, kind: Kind) -> Telling:
        """What can be told of a type to a kind of client."""

    @property
    def _may_hold_more(self) -> bool:
        """Whether the client may have from an earlier stream what is not known here, and would lose it if it were left out."""
        return False

    @abc.abstractmethod
    def _build(
        self, response: Response, fresh: Collection[str], denied: Iterable[str], gone: Iterable[str]
    ) -> Response:
        """Fill in what a response brings: added or changed, asked for but not there, and withdrawn."""

    def _state(self) -> tuple[str, object]:
        """The version of a response that is being made, and what else of this client's state its content depends on."""
        return str(self._version), None

    @property
    def in_flight(self) -> Response | None:
        """The response that the client has not answered yet."""
        return self._sent.response if self._sent else None

    @property
    def is_due(self) -> bool:
        """Whether there is anything to send."""
        return self._due or bool(self.holdings.pending) or self.parking.is_searching

    @property
    def adds(self) -> bool:
        """Whether anything is to be sent that the client does not have or is owed."""
        return self.holdings.adds or self.parking.is_searching

    def update(
        self, resources: Mapping[str, Resource], changed: frozenset[str] | None, generation: int, version: SetVersion
    ) -> None:
        """Take the resources of another generation. `changed` names those that may differ from the last; None: all."""
        holdings = self.holdings
        was_due = bool(holdings.pending)
        self._generation, self._version = generation, version
        self.parking.update(resources, version, changed)
        if holdings.afresh:
            return
        if holdings.pending and not was_due:
            self._since = generation
        self._answering &= self.is_due

    def respond(self, withdraw: Collection[str], memo: Memo) -> tuple[Response, Collection[str]] | None:
        """The response that is due, now in flight, and the names added or changed by it; None when there is nothing to say.

        What is to be withdrawn and not named in `withdraw` stays with the client, and is still due afterwards.
        """
        holdings = self.holdings
        if self.parking.is_searching and not holdings.pending:
            self.parking.offer()
        is_parked = bool(self.parking.parked)
        served, pending = holdings.served, holdings.pending
        self.warming, afresh = holdings.adds, holdings.afresh
        fresh: list[str] = self._everything(memo) if afresh else sorted([n for n in pending if n in served])
        denied: list[str] = []
        gone: list[str] = []
        if afresh or len(fresh) < len(pending):
            denied = holdings.denials()
            gone = sorted(n for n in withdraw if n in pending)
        if not (self._due or fresh or denied or gone):
            return None
        asked = holdings.asked(fresh)
        undo = holdings.send(fresh, denied, gone)
        version, state = self._state()
        head = Response(
            type_url=self.type_url,
            version=version,
            nonce=self._next_nonce(),
            generation=self._generation,
            since=self._since,
            is_initial=self._answering,
        )
        # A client with anything parked is not served the same as the others.
        key = (type(self), head, state, None if afresh else tuple(fresh), tuple(denied), tuple(gone))
        response: Response | None = None if is_parked else memo.get(key)
        if response is None:
            response = self._build(head, fresh, denied, gone)
            if len(memo) < MEMO_LIMIT and not is_parked:
                memo[key] = response
        self._sent = Sent(response, undo, fresh if len(fresh) < len(response.resources) else None, asked)
        self._nonce = response.nonce
        self._due = self._answering = False
        self._sent_version = response.version
        self._sent_generation = self._since = self._generation
        return response, fresh

    def status(self, generation: int) -> TypeStatus:
        """What is known of the client's state, `generation` being served. One that brings it nothing new has reached it."""
        sent, acked = self._sent_generation, self._acked_generation
        if not self.is_due:
            sent = generation
            if self._sent is None and not self.refused:
                acked = generation
        parked = self.parking.parked
        return TypeStatus(
            type_url=self.type_url,
            sent=self._sent_version,
            acked=self._acked_version,
            in_flight=self._sent is not None,
            pending=self.is_due,
            wildcard=self.subscription.wildcard,
            subscribed=len(self.subscription.names),
            sent_generation=sent,
            acked_generation=acked,
            parked=tuple(sorted(parked)),
            error=self._error or next((p.error for p in parked.values()), ""),
        )

    def _settle(self, request: Request) -> Received:
        """What the request makes of the response in flight. Only error_detail refuses: versions may repeat."""
        sent, nonce = self._sent, request.response_nonce
        if sent is None or nonce != sent.response.nonce:
            stale = bool(nonce and self._nonce) and nonce != self._nonce
            return Received(Outcome.STALE if stale else Outcome.SUBSCRIBED, self.type_url)
        self._sent = None
        self.warming = False
        self.refused = request.HasField("error_detail")
        if self.refused:
            error = request.error_detail.message or f"code {request.error_detail.code}, without a text"
            self._error = error[:TEXT_LIMIT]
            rest = is_partial(error, self._kind)
            parked = self.parking.refuse(sent, error, takes_rest=rest, may_hold_more=self._may_hold_more)
            return Received(Outcome.NACKED, self.type_url, sent.response, self._error, parked)
        self._error = ""
        self.parking.accept()
        self._acked_version = sent.response.version
        self._acked_generation = self._sent_generation
        return Received(Outcome.ACKED, self.type_url, sent.response)

    def _apply(self, shift: Shift, held: Mapping[str, str], first: bool) -> None:
        """Follow a change of the subscription. `held` is what the client kept from an earlier stream: versions by name."""
        if shift is NO_SHIFT and not held:
            return
        self.holdings.give_up(shift)
        if self.parking.parked:
            wants, all_again = self.subscription.wants, shift.repeated or shift.widened
            self.parking.release({n for n in self.parking.parked if all_again or n in shift.asked or not wants(n)})
        self.holdings.take_up(shift, held, self.in_flight.resources if self.in_flight else (), first=first)
        if shift.widened or shift.repeated:
            self._due = True
        self._answering = self.is_due and (self._answering or self._due or bool(shift.asked))

    def _recognise(self, version: str) -> None:
        """The client came with all that it wants, at that version."""
        self._due = self._answering = False
        self._sent_version = self._acked_version = version
        self._sent_generation = self._acked_generation = self._generation

    def _everything(self, memo: Memo) -> list[str]:
        """All names that are served, in order."""
        if self.parking.parked:
            return sorted(self.holdings.served)
        key = (self.type_url, self._version, "everything")
        names: list[str] | None = memo.get(key)
        if names is None:
            names = memo[key] = sorted(self.holdings.served)
        return names

    def _next_nonce(self) -> str:
        """Unique on the stream, and for a push of a change the same string on all streams, so that they share the bytes."""
        kind = self.type_url[self.type_url.rfind(".") + 1 :]
        if not self._answering and self._generation != self._plain_generation:
            self._plain_generation = self._generation
            return f"{kind}-{self._generation}"
        self._suffixes += 1
        return f"{kind}-{self._generation}.{self._suffixes}"
