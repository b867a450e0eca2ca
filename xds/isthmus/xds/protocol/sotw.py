"""State of the world: each request lists all names, and what a response means by silence depends on the type.

For clusters, listeners and scoped routes a response is the whole truth: what it leaves out is gone. For the others it may be
partial, and that something is gone cannot be told at all, so only what is new or changed is sent
(xDS protocol, "Deleting Resources" and "Knowing When a Requested Resource Does Not Exist").
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.holdings import Lacks, Telling
from isthmus.xds.protocol.response import Outcome, Received, Response
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.substream import Substream
from isthmus.xds.resource import WHOLE_TYPES, Resource, SetVersion, TypeUrl


class SotwSubstream(Substream[DiscoveryRequest]):
    """One type of a state-of-the-world stream.

    The version of a response is that of everything which the client then has and wants, also if the response brings a part of it.
    So a client that comes back with it and with the same names has it all, whichever replica it comes to.
    """

    __slots__ = ("_mixes",)

    def __init__(
        self, type_url: str, resources: Mapping[str, Resource], generation: int, version: SetVersion, kind: Kind
    ) -> None:
        super().__init__(type_url, resources, generation, version, kind)
        self._mixes = False
        """It has asked for names beside the wildcard or in its place, which it may have had before; no known client does."""

    def receive(self, request: DiscoveryRequest) -> Received:
        received = self._settle(request)
        if received.outcome is Outcome.STALE and self.in_flight is None:
            return received
        # With a response in flight a stale list is not answered, but it counts: the next one may be longer again, and what was
        # missing between them has been forgotten. An empty nonce is never stale: requests cross (envoyproxy/envoy#10363).
        first, self.opened = not self.opened, True
        shift = self.subscription.replace(request.resource_names)
        self.returning |= first and bool(request.version_info)
        self._mixes |= not first and (shift.narrowed or (self.subscription.wildcard and bool(shift.asked)))
        if first and request.version_info and self.holdings.has_all(request.version_info):
            self._recognise(request.version_info)
        else:
            self._apply(shift, {}, first)
        return received

    @staticmethod
    def _telling(type_url: str, kind: Kind) -> Telling:
        return _telling(type_url, kind)

    @property
    def _is_whole(self) -> bool:
        return self.type_url in WHOLE_TYPES

    @property
    def _may_hold_more(self) -> bool:
        return self._is_whole and (self._mixes or (self.returning and not self._acked_version))

    def _state(self) -> tuple[str, object]:
        version, subscription = str(self.holdings.total), self.subscription
        if not self._is_whole:
            return version, None
        # Withdrawals that must wait are still part of the whole.
        waiting = tuple((n, r.version) for n, r in self.holdings.pending.items() if isinstance(r, Resource))
        return version, (subscription.wildcard, subscription.names, waiting)

    def _build(
        self, response: Response, fresh: Collection[str], denied: Iterable[str], gone: Iterable[str]
    ) -> Response:
        names: Iterable[str] = fresh
        served, pending = self.holdings.served, self.holdings.pending
        if self._is_whole:
            wanted = served.keys() if self.subscription.wildcard else served.keys() & self.subscription.names
            names = sorted(wanted | pending.keys())
        resources = tuple([r for n in names if isinstance(r := pending.get(n) or served.get(n), Resource)])
        return msgspec.structs.replace(response, resources=resources, removed=tuple(denied), unknown=frozenset(denied))


@functools.lru_cache(64)
def _telling(type_url: str, kind: Kind) -> Telling:
    is_whole = type_url in WHOLE_TYPES
    # An Envoy that waits for the endpoints of a cluster which has just gone takes an empty assignment for an answer. Of the
    # other types it would refuse, or take for a change, a response without the resource; gRPC's libraries take the error.
    absence = is_whole or type_url == TypeUrl.ENDPOINT or kind is Kind.GRPC
    return Telling(is_whole, absence, is_whole, Lacks.NEW, counts=True)


class SotwStream(Stream[DiscoveryRequest]):
    """A state-of-the-world stream, aggregated or of one type."""

    _substream_type = SotwSubstream
