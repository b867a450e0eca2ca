"""One ADS stream: a substream for each type, and the order between them.

Requests and snapshots go in, responses come out; there is no IO and no clock. After each `receive`, each `update`, and when
`wake_at` has come, ask for `responses`: what they return counts as sent, so send it, in that order. The order itself is the table
of `isthmus.xds.order`; this file walks it.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Mapping
from typing import Generic

from isthmus.xds.group import Kind
from isthmus.xds.order import BOUND, EXPECTED, RENEWS, TURNS, Turn, Wait
from isthmus.xds.protocol.response import Received, Response, TypeStatus
from isthmus.xds.protocol.subscription import ProtocolError
from isthmus.xds.protocol.substream import Request, Substream
from isthmus.xds.resource import Resource, ResourceSnapshot, SetVersion, TypeUrl

__all__ = ["ProtocolError", "Stream"]

TYPES_LIMIT = 64
"""Types that one stream may ask for, served or not; Envoy knows about twenty."""


class Stream(abc.ABC, Generic[Request]):
    """What the two variants of an ADS stream share, and how either is used."""

    _substream_type: type[Substream[Request]]

    def __init__(self, snapshot: ResourceSnapshot, kind: Kind = Kind.ENVOY) -> None:
        self._snapshot = snapshot
        self._kind = kind
        self._substreams: dict[str, Substream[Request]] = {}
        self._wake_at: float | None = None
        self._held: dict[tuple[TypeUrl, str], float] = {}
        """Since when a type's responses (an empty name), or the withdrawal of one name, have been waiting for other types."""
        self._expected_until = 0.0
        """Until then a client that has come back is given time to ask for its listeners and routes."""
        self._renewed: set[str] | None = set()
        """Clusters sent before the client asked for endpoints; None: all of them."""
        self._turns: tuple[Turn, ...] = ()
        """Those of the types that the client has asked for."""

    def receive(self, request: Request, now: float) -> Received:
        """Take one request. `now` is in monotonic seconds.

        Raises:
            ProtocolError: the stream cannot go on; close it with INVALID_ARGUMENT and this text.

        """
        type_url = request.type_url
        substream = self._substream(type_url)
        first = not substream.opened
        received = substream.receive(request)
        if first and substream.returning and type_url in RENEWS:
            self._expected_until = now + BOUND
        if first and type_url in _LEADERS:
            # Not spared to a client that has them: their clusters were sent on this stream (envoyproxy/envoy#33607, #36951).
            substream.holdings.renew(substream.subscription.names & self._take_renewed(type_url))
        return received

    def update(self, snapshot: ResourceSnapshot) -> None:
        """Serve another generation from now on. Costs what the two differ by, if the snapshot's log reaches back so far."""
        before, self._snapshot = self._snapshot, snapshot
        changed = snapshot.changed_since(before.generation)
        for type_url, substream in self._substreams.items():
            known = _SERVED.get(type_url)
            if known is not None and (changed is None or known in changed):
                names = None if changed is None else changed[known]
                substream.update(snapshot.of_type(known), names, snapshot.generation, _version(snapshot, known))

    def responses(self, now: float) -> list[Response]:
        """What is due at `now` (monotonic seconds), in the order of sending; at most one response of a type is in flight."""
        self._wake_at = None
        out = [response for turn in self._turns if (response := self._take(turn, now))]
        if len(self._turns) != len(self._substreams):
            for type_url, substream in self._substreams.items():
                if type_url not in _SERVED and substream.in_flight is None and (sent := substream.respond((), {})):
                    out.append(sent[0])
        return out

    @property
    def wake_at(self) -> float | None:
        """The monotonic second at which `responses` will have more though nothing has arrived; None when nothing waits."""
        return self._wake_at

    @property
    def subscribed(self) -> int:
        """How many names the client has asked for, of all types."""
        return sum(len(s.subscription.names) for s in self._substreams.values())

    def status(self) -> tuple[TypeStatus, ...]:
        """Where each type stands that the client has asked for."""
        return tuple(s.status(self._snapshot.generation) for s in self._substreams.values())

    def told(self, type_url: TypeUrl, name: str) -> Resource | None:
        """What the client was last sent under a name, and so has, unless the response is still in flight or was refused."""
        substream = self._substreams.get(type_url)
        return substream.holdings.sent(name) if substream else None

    def missing(self, type_url: str) -> Iterable[str]:
        """The names of a type that the client has asked for and that do not exist."""
        substream = self._substreams.get(type_url)
        if substream is None:
            return ()
        served = self._snapshot.resources.get(_SERVED[type_url], {}) if type_url in _SERVED else {}
        return substream.subscription.names - served.keys()

    def _substream(self, type_url: str) -> Substream[Request]:
        substream = self._substreams.get(type_url)
        if substream is None:
            if not type_url:
                raise ProtocolError("the request has no type_url, which an aggregated (ADS) stream needs")
            if len(self._substreams) >= TYPES_LIMIT:
                raise ProtocolError(
                    f"{type_url} is one type too many; at most {TYPES_LIMIT} are accepted on one stream"
                )
            known = _SERVED.get(type_url)
            resources = self._snapshot.of_type(known) if known else {}
            version = _version(self._snapshot, known) if known else SetVersion()
            substream = self._substream_type(type_url, resources, self._snapshot.generation, version, self._kind)
            self._substreams[type_url] = substream
            self._turns = tuple(t for t in TURNS if t.type_url in self._substreams)
        return substream

    def _take(self, turn: Turn, now: float) -> Response | None:
        """One type's turn."""
        substream = self._substreams.get(turn.type_url)
        if substream is None or substream.in_flight is not None:
            return None
        if not substream.is_due:
            if self._held:
                self._held = {what: since for what, since in self._held.items() if what[0] is not turn.type_url}
            return None
        if not self._may_go((turn.type_url, ""), turn.after, now):
            return None
        sent = substream.respond(self._may_leave(turn, substream, now), self._snapshot.memo)
        if sent is None:
            return None
        response, fresh = sent
        if turn.type_url in RENEWS:
            self._renew(RENEWS[turn.type_url], fresh, substream)
        return response

    def _renew(self, follower: TypeUrl, fresh: Collection[str], leader: Substream[Request]) -> None:
        """Owe the follower's resources of the same names as the leader's that have just been sent."""
        substream = self._substreams.get(follower)
        if substream is None:
            if fresh and len(fresh) >= len(leader.holdings.served) and not leader.holdings.withdrawals():
                self._renewed = None
            elif self._renewed is not None:
                self._renewed.update(fresh)
                if len(self._renewed) > len(leader.holdings.served):
                    self._renewed = {n for n in self._renewed if leader.holdings.sent(n)}
        else:
            substream.holdings.renew(substream.subscription.names.intersection(fresh))

    def _take_renewed(self, follower: str) -> set[str]:
        """The names to be renewed when the follower is first asked for; from then on that is done as they are sent."""
        renewed, self._renewed = self._renewed, set()
        if renewed is not None:
            return renewed
        leader = self._substreams[_LEADERS[follower]]
        return {n for n in self._substreams[follower].subscription.names if leader.holdings.sent(n)}

    def _may_leave(self, turn: Turn, substream: Substream[Request], now: float) -> set[str]:
        """The names that may be withdrawn. Each has its own time to wait: those that have waited longest take no other along."""
        names = set(substream.holdings.withdrawals())
        for what in [w for w in self._held if w[0] is turn.type_url and w[1] not in names]:
            del self._held[what]
        return {n for n in names if self._may_go((turn.type_url, n), turn.withdrawals_after, now)}

    def _may_go(self, what: tuple[TypeUrl, str], waits: Mapping[TypeUrl, Wait], now: float) -> bool:
        """Whether all that is waited for has come true, or the bound has run out."""
        if all(self._has_come(t, wait, now) for t, wait in waits.items()):
            self._held.pop(what, None)
            return True
        until = self._held.setdefault(what, now) + BOUND
        if now >= until:
            del self._held[what]
            return True
        if now < self._expected_until:
            until = min(until, self._expected_until)
        self._wake_at = until if self._wake_at is None else min(until, self._wake_at)
        return False

    def _has_come(self, type_url: TypeUrl, wait: Wait, now: float) -> bool:
        substream = self._substreams.get(type_url)
        if substream is None:
            return type_url not in EXPECTED or now >= self._expected_until
        match wait:
            case Wait.WARM:
                return not (substream.warming or substream.adds)
            case Wait.SENT:
                return not substream.is_due
            case Wait.ACKED:
                return not (substream.is_due or substream.in_flight or substream.refused)


_LEADERS: Mapping[str, str] = {follower: leader for leader, follower in RENEWS.items()}
_SERVED: Mapping[str, TypeUrl] = {str(t): t for t in TypeUrl}


def _version(snapshot: ResourceSnapshot, type_url: TypeUrl) -> SetVersion:
    return snapshot.versions.get(type_url, SetVersion())
