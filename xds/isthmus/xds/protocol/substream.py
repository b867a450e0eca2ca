"""One type on one stream, whichever variant of the protocol: what the client wants, has been told, and is still owed.

Theory of operation. `told` is what the client was last sent, by name, and so what it has or has refused. A name that is *owed*
an answer whatever was sent before (newly asked for, asked for again, an assignment whose cluster has changed) is told as None.
Whenever a resource, a subscription or a debt changes, the names concerned are compared with `told`, and what differs is kept in
`pending`, so that a change costs what it touches, whatever else the client holds. A response empties `pending`, in whole or but
for withdrawals that must wait.

Three rules follow without further bookkeeping. Versions that come and go while a response is in flight are never sent: only the
difference at the time of sending counts. A refused resource has been told, so it is not sent again until its content changes or
it is asked for anew. A client that asked for what does not exist is still subscribed: when it appears, it differs.

At most one response is in flight. The first request that bears its nonce settles it; later ones with that nonce only subscribe,
for a client repeats the nonce whenever it asks for more, also after a refusal.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Generic, TypeVar

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from isthmus.xds.protocol.response import Outcome, Received, Response, TypeStatus
from isthmus.xds.protocol.subscription import Shift, Subscription
from isthmus.xds.resource import Resource, TypeUrl

Request = TypeVar("Request", DiscoveryRequest, DeltaDiscoveryRequest)

WHOLE_TYPES = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER})
"""Types that may be asked for as a whole. Naming no endpoint or route means to want none."""


class Need(enum.Enum):
    """How a name differs from what the client was told."""

    ADD = "add"
    """It exists, and the client does not have it or is owed it."""
    CHANGE = "change"
    WITHDRAW = "withdraw"
    """It is gone, and the client has it."""
    DENY = "deny"
    """It does not exist, and the client is owed an answer."""


class Substream(abc.ABC, Generic[Request]):
    """What the variants share. They differ in how a request reads, what tells absence, and what a response carries."""

    def __init__(self, type_url: str, resources: Mapping[str, Resource], generation: int, version: str) -> None:
        self.type_url = type_url
        self.subscription = Subscription(allows_wildcard=type_url in WHOLE_TYPES)
        self.told: dict[str, Resource | None] = {}
        self.pending: dict[str, Need] = {}
        self.in_flight: Response | None = None
        self.warming = False
        """The response in flight adds something."""
        self.refused = False
        """The last settled response was refused."""
        self.opened = False
        self.returning = False
        """The client came with versions that it holds from an earlier stream."""
        self._resources = resources
        self._generation = generation
        self._version = version
        self._due = False
        self._answering = False
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

    @property
    @abc.abstractmethod
    def _tells_absence(self) -> bool:
        """Whether a response can say that a name does not exist."""

    @abc.abstractmethod
    def _content(self, fresh: list[str], gone: list[str]) -> tuple[str, tuple[Resource, ...], tuple[str, ...]]:
        """Version, resources and removed names of the response that has just been told."""

    @property
    def is_due(self) -> bool:
        """Whether there is anything to send."""
        return self._due or bool(self.pending)

    def needs(self, need: Need) -> bool:
        """Whether any name is pending in that way."""
        return need in self.pending.values()

    def update(
        self, resources: Mapping[str, Resource], changed: frozenset[str] | None, generation: int, version: str
    ) -> None:
        """Take the resources of another generation. `changed` names those that may differ from the last; None: all."""
        self._resources, self._generation, self._version = resources, generation, version
        if changed is None:
            changed = frozenset(resources.keys() | self.told.keys() | self.pending.keys())
        self._compare(changed)
        self._note_progress()

    def owe(self, names: Iterable[str]) -> None:
        """Owe an answer for each of the names, whatever was sent before."""
        names = list(names)
        for name in names:
            self._tell(name, None)
        self._compare(names)

    def respond(self, withdraw: Collection[str]) -> tuple[Response, list[str]] | None:
        """The response that is due, now in flight, and the names added or changed by it; None when there is nothing to say.

        What is to be withdrawn and not named in `withdraw` stays with the client, and is still due afterwards.
        """
        pending = self.pending.items()
        fresh = sorted(n for n, need in pending if need in (Need.ADD, Need.CHANGE))
        gone = sorted(n for n, need in pending if need is Need.DENY or (need is Need.WITHDRAW and n in withdraw))
        if not (self._due or fresh or gone):
            return None
        self.warming = self.needs(Need.ADD)
        for name in fresh:
            self._tell(name, self._resources[name])
            del self.pending[name]
        for name in gone:
            self._forget(name)
            del self.pending[name]
        version, resources, removed = self._content(fresh, gone)
        self.in_flight = Response(
            type_url=self.type_url,
            version=version,
            nonce=self._next_nonce(),
            resources=resources,
            removed=removed,
            generation=self._generation,
            is_initial=self._answering,
        )
        self._nonce = self.in_flight.nonce
        self._due = self._answering = False
        self._sent_version = version
        self._sent_generation = self._generation
        return self.in_flight, fresh

    def status(self) -> TypeStatus:
        """What is known of the client's state."""
        return TypeStatus(
            type_url=self.type_url,
            sent=self._sent_version,
            acked=self._acked_version,
            in_flight=self.in_flight is not None,
            pending=self.is_due,
            wildcard=self.subscription.wildcard,
            subscribed=len(self.subscription.names),
            sent_generation=self._sent_generation,
            acked_generation=self._acked_generation,
            error=self._error,
        )

    def _settle(self, request: Request) -> Received:
        """What the request makes of the response in flight. Only error_detail refuses: versions may repeat."""
        settled = self.in_flight
        nonce = request.response_nonce
        if settled is None or nonce != settled.nonce:
            stale = bool(nonce and self._nonce) and nonce != self._nonce
            return Received(Outcome.STALE if stale else Outcome.SUBSCRIBED, self.type_url)
        self.in_flight = None
        self.warming = False
        self.refused = request.HasField("error_detail")
        if self.refused:
            self._error = request.error_detail.message or f"code {request.error_detail.code}, without a text"
            return Received(Outcome.NACKED, self.type_url, settled, self._error)
        self._error = ""
        self._acked_version = settled.version
        self._acked_generation = self._sent_generation
        return Received(Outcome.ACKED, self.type_url, settled)

    def _apply(self, shift: Shift) -> None:
        """Follow a change of the subscription."""
        if shift.narrowed:
            self._drop([n for n in self.told.keys() | self.pending.keys() if not self.subscription.wants(n)])
        self._drop(shift.dropped)
        if shift.repeated:
            self.owe(self.told)
        self.owe(shift.asked)
        if shift.widened and self.in_flight is not None:
            # A client that left the wildcard and came back may or may not keep what reaches it only now.
            self.owe(r.name for r in self.in_flight.resources if r.name not in self.told)
        if shift.widened or shift.repeated:
            self._due = True
            self._compare(self._resources)
        if shift.asked or self._due:
            self._answering = True
        self._note_progress()

    def _recognise(self, version: str) -> None:
        """The client came with all that it wants, at that version."""
        self._due = self._answering = False
        self._sent_version = self._acked_version = version
        self._sent_generation = self._acked_generation = self._generation

    def _compare(self, names: Iterable[str]) -> None:
        resources, told, pending = self._resources, self.told, self.pending
        for name in names:
            current, held = resources.get(name), told.get(name)
            if current is None and not self._tells_absence:
                # The client is not told, so it still has what it had; what it has only asked for is sent when it appears.
                if held is None:
                    self._drop([name])
                pending.pop(name, None)
            elif (current is None and name not in told) or not self.subscription.wants(name):
                pending.pop(name, None)
            elif current is None:
                pending[name] = Need.DENY if held is None else Need.WITHDRAW
            elif held is None:
                pending[name] = Need.ADD
            elif held.version != current.version:
                pending[name] = Need.CHANGE
            else:
                pending.pop(name, None)

    def _tell(self, name: str, resource: Resource | None) -> None:
        self.told[name] = resource

    def _forget(self, name: str) -> None:
        self._tell(name, None)
        del self.told[name]

    def _drop(self, names: Iterable[str]) -> None:
        """Unwanted: the client forgets them, and so do we, that they be sent when they are asked for again."""
        for name in names:
            self.pending.pop(name, None)
            if name in self.told:
                self._forget(name)

    def _note_progress(self) -> None:
        """A generation that brings nothing new for this client has reached it as it is."""
        if not self.is_due:
            self._answering = False
            self._sent_generation = self._generation
            if self.in_flight is None and not self.refused:
                self._acked_generation = self._generation

    def _next_nonce(self) -> str:
        """Unique on the stream, and for a push of a change the same string on all streams, so that they share the bytes."""
        kind = self.type_url.rpartition("/")[2].rpartition(".")[2]
        if not self._answering and self._generation != self._plain_generation:
            self._plain_generation = self._generation
            return f"{kind}-{self._generation}"
        self._suffixes += 1
        return f"{kind}-{self._generation}.{self._suffixes}"
