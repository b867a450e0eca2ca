"""One ADS stream: a substream for each type, and the order between them.

Requests and snapshots go in, responses come out; there is no IO and no clock. After each `receive`, each `update`, and when
`wake_at` has come, ask for `responses`: what they return counts as sent, so send it, in that order. The order itself is the table
of `isthmus.xds.order`; this file walks it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Generic

from isthmus.xds.order import BOUND, RENEWS, TURNS, Turn, Wait
from isthmus.xds.protocol.response import Received, Response, TypeStatus
from isthmus.xds.protocol.subscription import ProtocolError
from isthmus.xds.protocol.substream import Need, Request, Substream
from isthmus.xds.resource import Resource, ResourceSnapshot, SetVersion, TypeUrl

__all__ = ["ProtocolError", "Stream"]

TYPES_LIMIT = 64
"""Types that one stream may ask for, served or not; Envoy knows about twenty."""


class Stream(abc.ABC, Generic[Request]):
    """What the two variants of an ADS stream share, and how either is used."""

    def __init__(self, snapshot: ResourceSnapshot) -> None:
        self._snapshot = snapshot
        self._substreams: dict[str, Substream[Request]] = {}
        self._wake_at: float | None = None
        self._held: dict[tuple[TypeUrl, str], float] = {}
        """Since when a type's responses (an empty name), or the withdrawal of one name, have been waiting for other types."""
        self._expected_until = 0.0
        """Until then a client that has come back is given time to ask for its listeners and routes."""
        self._renewed: set[str] = set()
        """Clusters sent before the client asked for endpoints."""

    @abc.abstractmethod
    def _open(
        self, type_url: str, resources: Mapping[str, Resource], generation: int, version: str
    ) -> Substream[Request]:
        """The substream for a type that is asked for the first time."""

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
        if first and type_url in RENEWS.values():
            # Not spared to a client that has them: their clusters were sent on this stream (envoyproxy/envoy#33607, #36951).
            substream.owe(self._renewed & substream.subscription.names)
            self._renewed.clear()
        return received

    def update(self, snapshot: ResourceSnapshot) -> None:
        """Serve another generation from now on. Costs what the two differ by, if the snapshot's log reaches back so far."""
        before, self._snapshot = self._snapshot, snapshot
        for type_url in TypeUrl:
            if substream := self._substreams.get(type_url):
                changed = snapshot.changed_since(before.generation, type_url)
                substream.update(snapshot.of_type(type_url), changed, snapshot.generation, _version(snapshot, type_url))

    def responses(self, now: float) -> list[Response]:
        """What is due at `now` (monotonic seconds), in the order of sending; at most one response of a type is in flight."""
        self._wake_at = None
        out = [r for turn in TURNS if (r := self._take(turn, now))]
        for type_url, substream in self._substreams.items():
            if type_url not in _SERVED and substream.in_flight is None and (sent := substream.respond(withdraw=set())):
                out.append(sent[0])
        return out

    @property
    def wake_at(self) -> float | None:
        """The monotonic second at which `responses` will have more though nothing has arrived; None when nothing waits."""
        return self._wake_at

    def status(self) -> tuple[TypeStatus, ...]:
        """Where each type stands that the client has asked for."""
        return tuple(s.status() for s in self._substreams.values())

    def told(self, type_url: TypeUrl, name: str) -> Resource | None:
        """What the client was last sent under a name, and so has, unless the response is still in flight or was refused."""
        substream = self._substreams.get(type_url)
        return substream.told.get(name) if substream else None

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
            version = _version(self._snapshot, known) if known else ""
            substream = self._open(type_url, resources, self._snapshot.generation, version)
            self._substreams[type_url] = substream
        return substream

    def _take(self, turn: Turn, now: float) -> Response | None:
        """One type's turn."""
        substream = self._substreams.get(turn.type_url)
        if substream is None or substream.in_flight is not None:
            return None
        if not self._may_go((turn.type_url, ""), turn.after if substream.is_due else {}, now):
            return None
        sent = substream.respond(self._may_leave(turn, substream, now))
        if sent is None:
            return None
        response, fresh = sent
        if turn.type_url in RENEWS:
            self._renew(RENEWS[turn.type_url], fresh, substream)
        return response

    def _renew(self, follower: TypeUrl, fresh: list[str], leader: Substream[Request]) -> None:
        """Owe the follower's resources of the same names as the leader's that have just been sent."""
        substream = self._substreams.get(follower)
        if substream is None:
            self._renewed = (self._renewed | set(fresh)) & leader.told.keys()
        else:
            substream.owe(substream.subscription.names.intersection(fresh))

    def _may_leave(self, turn: Turn, substream: Substream[Request], now: float) -> set[str]:
        """The names that may be withdrawn. Each has its own time to wait: those that have waited longest take no other along."""
        names = {n for n, need in substream.pending.items() if need is Need.WITHDRAW}
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
            return now >= self._expected_until
        match wait:
            case Wait.WARM:
                return not (substream.warming or substream.needs(Need.ADD))
            case Wait.SENT:
                return not substream.is_due
            case Wait.ACKED:
                return not (substream.is_due or substream.in_flight or substream.refused)


_SERVED: Mapping[str, TypeUrl] = {str(t): t for t in TypeUrl}


def _version(snapshot: ResourceSnapshot, type_url: TypeUrl) -> str:
    return str(snapshot.versions.get(type_url, SetVersion()))
