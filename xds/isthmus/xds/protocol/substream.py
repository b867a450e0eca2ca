"""One type on one stream, whichever variant of the protocol: what the client wants, and where it is behind.

Theory of operation. The client is taken to have everything that it wants as it is served now, but for the names in `pending`:
there stands what it has instead. So a client that is up to date costs a pointer to what is served, whatever it has asked for,
and a change costs what it touches: when a resource, a subscription or a debt changes, the names concerned are looked at again.
A name that is *owed* an answer whatever was sent before (newly asked for, asked for again, an assignment whose cluster has
changed) stands there as ASKED. A response empties `pending`, in whole or but for withdrawals that must wait.

Three rules follow without further bookkeeping. Versions that come and go while a response is in flight are never sent: only the
difference at the time of sending counts. A refused resource has been sent, so it is not sent again until its content changes or
it is asked for anew. A client that asked for what does not exist is still subscribed: when it appears, it differs.

A refusal that names resources refuses those alone (clients apply the rest: gRFC A46, and Envoy does the same). They are
*parked*: until their content changes, the client is served what it had before under these names. The sort of client does not
matter here: what one Envoy refuses (an address in use on its host), another of the same build accepts.

At most one response is in flight. The first request that bears its nonce settles it; later ones with that nonce only subscribe,
for a client repeats the nonce whenever it asks for more, also after a refusal.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.refusal import TEXT_LIMIT, is_partial, named_in
from isthmus.xds.protocol.response import Outcome, Received, Response, TypeStatus
from isthmus.xds.protocol.subscription import NO_SHIFT, Shift, Subscription
from isthmus.xds.resource import WHOLE_TYPES, Resource, SetVersion, TypeUrl

Request = TypeVar("Request", DiscoveryRequest, DeltaDiscoveryRequest)

Memo = dict[Any, Any]
"""Responses that streams share, by all that they depend on. It belongs to one generation."""

MEMO_LIMIT = 256
"""Different responses that are kept to be shared; beyond, they are built anew."""


class Lacks(enum.Enum):
    """Why a client that wants a name has nothing under it that would count."""

    NEW = "new"
    """It has appeared. Should it vanish before it is sent, nobody need know."""
    ASKED = "asked"
    """It was asked for, and is owed an answer, be it that it does not exist."""


Has = Resource | Lacks


class Parked(msgspec.Struct, frozen=True):
    """A resource that the client has refused: the version, and what it goes on with (None: without)."""

    version: str
    good: Resource | None
    error: str


class Substream(abc.ABC, Generic[Request]):
    """What the variants share. They differ in how a request reads, what can be told, and what a response carries."""

    __slots__ = (
        "_acked_generation",
        "_acked_version",
        "_afresh",
        "_answering",
        "_due",
        "_error",
        "_fresh",
        "_generation",
        "_had",
        "_kept",
        "_kind",
        "_nonce",
        "_parked",
        "_plain_generation",
        "_resources",
        "_sent_generation",
        "_sent_version",
        "_served",
        "_since",
        "_suffixes",
        "_undo",
        "_version",
        "in_flight",
        "opened",
        "pending",
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
        self.pending: dict[str, Has] = {}
        self.in_flight: Response | None = None
        self.warming = False
        """The response in flight adds something."""
        self.refused = False
        """The last settled response was refused."""
        self.opened = False
        self.returning = False
        """The client came with versions that it holds from an earlier stream."""
        self._resources = resources
        self._served = resources
        """The same, but for what is parked."""
        self._parked: dict[str, Parked] = {}
        self._kept: dict[str, Resource] = {}
        """What the client still has though it is gone, since it cannot be told."""
        self._undo: dict[str, Resource] = {}
        """What the client had before the response in flight, where it had anything."""
        self._had: dict[str, Resource] = {}
        """What the client goes on with until it has what it is owed, where it has not asked for that itself."""
        self._fresh: Collection[str] = ()
        """What the response in flight adds or changes, of all that it brings."""
        self._generation = generation
        self._version = version
        self._afresh = False
        """The client wants everything and has nothing yet: as if each name were in `pending`."""
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

    @property
    @abc.abstractmethod
    def _tells_removal(self) -> bool:
        """Whether a response can say that what the client has is gone."""

    @property
    @abc.abstractmethod
    def _tells_absence(self) -> bool:
        """Whether a response can say that what the client asked for does not exist."""

    @property
    def _may_hold_more(self) -> bool:
        """Whether the client may have from an earlier stream what is not known here, and would lose it if it were left out."""
        return False

    _after_refusal = Lacks.NEW
    """What a client lacks that has refused a name and was not known to have had it before."""

    @abc.abstractmethod
    def _build(
        self, response: Response, fresh: Collection[str], denied: Iterable[str], gone: Iterable[str]
    ) -> Response:
        """Fill in what a response brings: added or changed, asked for but not there, and withdrawn."""

    def _count(self, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        """Note that the client has other resources from now on, in place of some."""

    def _count_all(self) -> None:
        """Note that what the client has is known anew."""

    def _everything(self, memo: Memo) -> list[str]:
        """All names that are served, in order."""
        if self._parked:
            return sorted(self._served)
        key = (self.type_url, "everything")
        names: list[str] | None = memo.get(key)
        if names is None:
            names = memo[key] = sorted(self._served)
        return names

    def _state(self) -> tuple[str, object]:
        """The version of a response that is being made, and what else of this client's state its content depends on."""
        return str(self._version), None

    @property
    def is_due(self) -> bool:
        """Whether there is anything to send."""
        return self._due or bool(self.pending)

    @property
    def available(self) -> int:
        """How many resources there are to be asked for."""
        return len(self._served)

    @property
    def adds(self) -> bool:
        """Whether anything is to be sent that the client does not have or is owed."""
        if self._afresh and self._served:
            return True
        return any(isinstance(has, Lacks) and name in self._served for name, has in self.pending.items())

    def withdrawals(self) -> list[str]:
        """The names that are gone while the client has them."""
        return [n for n, has in self.pending.items() if n not in self._served and isinstance(has, Resource)]

    def has(self, name: str) -> Resource | None:
        """What the client was last sent under a name, unless it is owed another answer."""
        if self._afresh or not self.subscription.wants(name):
            return None
        has = self._has(name)
        return has if isinstance(has, Resource) else None

    def update(
        self, resources: Mapping[str, Resource], changed: frozenset[str] | None, generation: int, version: SetVersion
    ) -> None:
        """Take the resources of another generation. `changed` names those that may differ from the last; None: all."""
        before, wants = self._served, self.subscription.wants
        if changed is None:
            changed = frozenset(self._resources.keys() | resources.keys())
        self._resources, self._generation, self._version = resources, generation, version
        unparked: frozenset[str] = frozenset()
        if self._parked:
            unparked = self._park({})
            changed |= unparked
        else:
            self._served = resources
        if self._afresh:
            return
        was_due = bool(self.pending)
        for name in changed:
            if wants(name):
                lacks = self._after_refusal if name in unparked else Lacks.NEW
                self._look(name, self.pending.get(name) or before.get(name) or self._kept.pop(name, None) or lacks)
        if self.pending and not was_due:
            self._since = generation
        self._answering &= self.is_due

    def owe(self, names: Collection[str]) -> None:
        """Owe an answer for each of the names, whatever was sent before."""
        self._count([r for n in names if (r := self.has(n))], ())
        for name in names if self._kept else ():
            self._kept.pop(name, None)
        self._ask(names)

    def renew(self, names: Iterable[str]) -> None:
        """Owe each of the names once more to a client that goes on with what it has until then."""
        # Of what a client was left with from an earlier stream nothing but the version is known: it cannot be sent.
        names = {n for n in names if (r := self._served.get(n)) is None or r.field}
        had = {n: r for n in names if (r := self.has(n))}
        self.owe(names)
        self._had |= had

    def respond(self, withdraw: Collection[str], memo: Memo) -> tuple[Response, Collection[str]] | None:
        """The response that is due, now in flight, and the names added or changed by it; None when there is nothing to say.

        What is to be withdrawn and not named in `withdraw` stays with the client, and is still due afterwards.
        """
        served, pending = self._served, self.pending
        self.warming, afresh = self.adds, self._afresh
        fresh: list[str] = self._everything(memo) if afresh else sorted([n for n in pending if n in served])
        denied: list[str] = []
        gone: list[str] = []
        if afresh or len(fresh) < len(pending):
            denied = sorted(n for n, has in pending.items() if has is Lacks.ASKED and n not in served)
            gone = sorted(n for n in withdraw if n in pending)
        if not (self._due or fresh or denied or gone):
            return None
        undo: dict[str, Resource] = {}
        if afresh:
            pending.clear()
            self._afresh = False
            self._count_all()
        else:
            undo = {n: has for n in (*fresh, *gone) if isinstance(has := pending[n], Resource)}
            self._count(undo.values(), [served[n] for n in fresh])
            if len(fresh) == len(pending):
                pending.clear()
            for name in (*fresh, *denied, *gone) if pending else ():
                del pending[name]
            if self._had:
                undo |= {n: self._had.pop(n) for n in (*fresh, *denied) if n in self._had}
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
        response: Response | None = None if self._parked else memo.get(key)
        if response is None:
            response = self._build(head, fresh, denied, gone)
            if len(memo) < MEMO_LIMIT and not self._parked:
                memo[key] = response
        self.in_flight = response
        self._undo, self._fresh = undo, fresh
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
            if self.in_flight is None and not self.refused:
                acked = generation
        return TypeStatus(
            type_url=self.type_url,
            sent=self._sent_version,
            acked=self._acked_version,
            in_flight=self.in_flight is not None,
            pending=self.is_due,
            wildcard=self.subscription.wildcard,
            subscribed=len(self.subscription.names),
            sent_generation=sent,
            acked_generation=acked,
            parked=tuple(sorted(self._parked)),
            error=self._error or next((p.error for p in self._parked.values()), ""),
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
        undo, self._undo = self._undo, {}
        self.refused = request.HasField("error_detail")
        if self.refused:
            error = request.error_detail.message or f"code {request.error_detail.code}, without a text"
            self._error = error[:TEXT_LIMIT]
            parked = self._refuse(settled, undo, error)
            return Received(Outcome.NACKED, self.type_url, settled, self._error, parked)
        self._error = ""
        self._acked_version = settled.version
        self._acked_generation = self._sent_generation
        return Received(Outcome.ACKED, self.type_url, settled)

    def _refuse(self, settled: Response, undo: Mapping[str, Resource], error: str) -> tuple[str, ...]:
        """Park what the error names of a response; returns the names."""
        sent = {r.name: r for r in settled.resources}
        names = [n for n in named_in(error, sent) if self.subscription.wants(n)]
        parked: dict[str, Parked] = {}
        renewed: set[str] = set()
        for name in names:
            refused, good = sent[name], undo.get(name)
            has = self._had.get(name) or self._has(name)
            if not isinstance(has, Resource) or has.version != refused.version:
                continue  # it has been asked for anew: what comes next takes its place
            if good is None and self._may_hold_more:
                continue  # it may go on with an older one, as long as it is named one
            if name not in self._fresh or (good is not None and good.version == refused.version):
                continue  # it refuses what it had accepted before: there is nothing better to go on with
            parked[name] = Parked(refused.version, good, self._error)
            if self._had.pop(name, None) is None:
                self._count([refused], [good] if good else [])
            elif good is None or good.field:
                renewed.add(name)
                self._had.update({name: good} if good else {})
        self._park(parked)
        for name, known in parked.items():
            if name in renewed:
                continue  # it is owed what it is to go on with
            self._kept.pop(name, None)
            # What is parked is not there to be sent; it may have it from before it asked again, and is to keep that.
            self._look(name, known.good or (Lacks.NEW if name in self._parked else self._after_refusal))
        if parked and not is_partial(error, self._kind):
            self._send_again(sent, undo, parked)
        return tuple(parked)

    def _send_again(self, sent: Mapping[str, Resource], undo: Mapping[str, Resource], parked: Collection[str]) -> None:
        """The client has taken nothing of a response for the sake of what is parked now: the rest is due once more."""
        changed = {n for n in self._fresh if n in sent} | (undo.keys() - sent.keys())
        for name in changed.difference(parked):
            if name not in self.pending and self.subscription.wants(name):
                had = undo.get(name)
                self._count([sent[name]] if name in sent else [], [had] if had else [])
                self._look(name, had or self._after_refusal)

    def _park(self, more: Mapping[str, Parked]) -> frozenset[str]:
        """Serve what is parked in place of what is served to others; returns the names whose time to be parked is over."""
        resources = self._resources
        before, self._parked = self._parked, {}
        for name, parked in {**before, **more}.items():
            current = resources.get(name)
            if current is not None and current.version == parked.version:
                self._parked[name] = parked
        served = dict(resources) if self._parked else resources
        for name, parked in self._parked.items():
            if parked.good is None:
                del served[name]  # type: ignore[attr-defined]
            else:
                served[name] = parked.good  # type: ignore[index]
        self._served = served
        return frozenset(before.keys() - self._parked.keys())

    def _apply(self, shift: Shift, held: Mapping[str, str], first: bool) -> None:
        """Follow a change of the subscription. `held` is what the client kept from an earlier stream: versions by name."""
        if shift is NO_SHIFT and not held:
            return
        if self._had:
            wants = self.subscription.wants
            self._had = {n: r for n, r in self._had.items() if wants(n) and n not in shift.asked}
        if shift.narrowed:
            self._afresh = False
            self.pending = {n: has for n, has in self.pending.items() if self.subscription.wants(n)}
            self._kept = {n: r for n, r in self._kept.items() if self.subscription.wants(n)}
            self._count_all()
        for name in shift.dropped:
            has = self._has(name)
            self._count([has] if isinstance(has, Resource) else [], ())
            self.pending.pop(name, None)
            self._kept.pop(name, None)
        if self._parked:
            wants = self.subscription.wants
            all_again = shift.repeated or shift.widened
            self._unpark([n for n in self._parked if all_again or n in shift.asked or not wants(n)])
        if shift.repeated:
            self.owe(self._served.keys() | self.pending.keys())
        if shift.widened:
            self._widen(shift.before | held.keys(), afresh=first and not held and not self.subscription.names)
        knew_all = (self.subscription.wildcard and not shift.widened) or shift.narrowed
        known = shift.asked if knew_all else shift.asked & shift.before
        self.owe(known)
        self._ask(shift.asked - known)
        for name, version in held.items():
            # Of what a client holds from earlier nothing but the version is known, nor is more needed.
            if self.subscription.wants(name):
                self._look(name, self._held(name, version))
        if shift.widened or shift.repeated:
            self._due = True
        self._answering = self.is_due and (self._answering or self._due or bool(shift.asked))

    def _widen(self, known: Collection[str], afresh: bool) -> None:
        """Everything is wanted from now on; of the names that are known it has been noted what the client has."""
        self._afresh = afresh
        if afresh:
            return
        for name in self._served:
            if name not in known:
                self._look(name, Lacks.NEW)
        # A client that left the wildcard and came back may or may not keep what reaches it only now.
        for resource in self.in_flight.resources if self.in_flight else ():
            if resource.name not in known:
                self._look(resource.name, Lacks.ASKED)
        self._count_all()

    def _held(self, name: str, version: str) -> Resource:
        current = self._served.get(name)
        if current is not None and current.version == version:
            return current
        return Resource(TypeUrl.CLUSTER, name, version, b"", 0)  # whatever the type: see above

    def _unpark(self, names: Iterable[str]) -> None:
        before = self._served
        self._parked = {n: p for n, p in self._parked.items() if n not in set(names)}
        for name in self._park({}) | set(names):
            if self.subscription.wants(name):
                self._look(name, self.pending.get(name) or before.get(name) or self._after_refusal)

    def _recognise(self, version: str) -> None:
        """The client came with all that it wants, at that version."""
        self._due = self._answering = False
        self._sent_version = self._acked_version = version
        self._sent_generation = self._acked_generation = self._generation

    def _has(self, name: str) -> Has | None:
        return self.pending.get(name) or self._served.get(name) or self._kept.get(name)

    def _ask(self, names: Iterable[str]) -> None:
        """Owe an answer for names under which nothing counts that the client has."""
        if self._tells_absence:
            self.pending |= dict.fromkeys(names, Lacks.ASKED)
            return
        for name in names:
            self._look(name, Lacks.ASKED)

    def _look(self, name: str, has: Has) -> None:
        """Compare what the client has under a name that it wants with what is served."""
        current = self._served.get(name)
        if current is None:
            keep = self._tells_absence if has is Lacks.ASKED else has is not Lacks.NEW and self._tells_removal
            if isinstance(has, Resource) and not keep:
                self._kept[name] = has
        else:
            keep = isinstance(has, Lacks) or has.version != current.version
        if keep:
            self.pending[name] = has
        else:
            self.pending.pop(name, None)

    def _next_nonce(self) -> str:
        """Unique on the stream, and for a push of a change the same string on all streams, so that they share the bytes."""
        kind = self.type_url[self.type_url.rfind(".") + 1 :]
        if not self._answering and self._generation != self._plain_generation:
            self._plain_generation = self._generation
            return f"{kind}-{self._generation}"
        self._suffixes += 1
        return f"{kind}-{self._generation}.{self._suffixes}"
