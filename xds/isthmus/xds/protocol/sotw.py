"""State of the world: each request lists all names, and what a response means by silence depends on the type.

For clusters, listeners and scoped routes a response is the whole truth: what it leaves out is gone. For the others it may be
partial, and that something is gone cannot be told at all, so only what is new or changed is sent
(xDS protocol, "Deleting Resources" and "Knowing When a Requested Resource Does Not Exist").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.response import Outcome, Received, Response
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.substream import Substream
from isthmus.xds.resource import WHOLE_TYPES, Resource, SetVersion, TypeUrl


class SotwSubstream(Substream[DiscoveryRequest]):
    """One type of a state-of-the-world stream.

    The version of a response is that of everything which the client then has and wants, also if the response brings a part of it.
    So a client that comes back with it and with the same names has it all, whichever replica it comes to.
    """

    __slots__ = ("_mixes", "_takes_errors", "_total")

    def __init__(
        self, type_url: str, resources: Mapping[str, Resource], generation: int, version: SetVersion, kind: Kind
    ) -> None:
        super().__init__(type_url, resources, generation, version, kind)
        self._takes_errors = kind is Kind.GRPC
        self._mixes = False
        """It has asked for names beside the wildcard or in its place, which it may have had before; no known client does."""
        self._total = SetVersion()

    def receive(self, request: DiscoveryRequest) -> Received:
        received = self._settle(request)
        if received.outcome is Outcome.STALE and self.in_flight is None:
            return received
        # With a response in flight a stale list is not answered, but it counts: the next one may be longer again, and what was
        # missing between them has been forgotten. An empty nonce is never stale: requests cross (envoyproxy/envoy#10363).
        first, self.opened = not self.opened, True
        shift = self.subscription.replace(request.resource_names)
        self.returning |= first and bool(request.version_info)
        self._mixes |= shift.narrowed or (self.subscription.wildcard and bool(shift.asked))
        if not (first and request.version_info and self._has_all(request.version_info)):
            self._apply(shift, {}, first)
        return received

    def _has_all(self, version: str) -> bool:
        """Whether a client that comes back with a version has all that it would be sent."""
        self._count_all()
        if version != str(self._total):
            self._total = SetVersion()
            return False
        self._recognise(version)
        return True

    @property
    def _is_whole(self) -> bool:
        return self.type_url in WHOLE_TYPES

    @property
    def _tells_removal(self) -> bool:
        return self._is_whole

    @property
    def _tells_absence(self) -> bool:
        # An Envoy that waits for the endpoints of a cluster which has just gone takes an empty assignment for an answer. Of the
        # other types it would refuse, or take for a change, a response without the resource; gRPC's libraries take the error.
        return self._is_whole or self.type_url == TypeUrl.ENDPOINT or self._takes_errors

    @property
    def _may_hold_more(self) -> bool:
        return self._is_whole and (self._mixes or (self.returning and not self._acked_version))

    def _state(self) -> tuple[str, object]:
        # Withdrawals that must wait are still part of the whole.
        waiting = tuple((n, r.version) for n, r in self.pending.items() if isinstance(r, Resource))
        return str(self._total), (
            self.subscription.wildcard,
            self.subscription.names,
            waiting,
        ) if self._is_whole else None

    def _build(
        self, response: Response, fresh: Collection[str], denied: Iterable[str], gone: Iterable[str]
    ) -> Response:
        names: Iterable[str] = fresh
        if self._is_whole:
            wanted = (
                self._served.keys() if self.subscription.wildcard else self._served.keys() & self.subscription.names
            )
            names = sorted(wanted | self.pending.keys())
        resources = tuple(r for n in names if isinstance(r := self.pending.get(n) or self._served.get(n), Resource))
        return msgspec.structs.replace(response, resources=resources, removed=tuple(denied), unknown=frozenset(denied))

    def _count(self, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        self._total = self._total.replaced(before, after)

    def _count_all(self) -> None:
        if self.subscription.wildcard and not (self.pending or self._parked):
            self._total = self._version
            return
        names = self._served.keys() | self.pending.keys() if self.subscription.wildcard else self.subscription.names
        self._total = SetVersion.of(r for n in names if isinstance(r := self._has(n), Resource))


class SotwStream(Stream[DiscoveryRequest]):
    """A state-of-the-world stream, aggregated or of one type."""

    _substream_type = SotwSubstream
