"""Incremental xDS: requests add and take away names, responses carry what changed and name what is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.holdings import Lacks, Telling
from isthmus.xds.protocol.response import Received, Response
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.subscription import NAMES_LIMIT, ProtocolError
from isthmus.xds.protocol.substream import Substream


class DeltaSubstream(Substream[DeltaDiscoveryRequest]):
    """One type of a delta stream. The version of a response is the type's, for people; resources have their own."""

    __slots__ = ()

    def receive(self, request: DeltaDiscoveryRequest) -> Received:
        # A subscription is changed by any request, whatever its nonce and error_detail say of a response
        # (xDS protocol, "ACK/NACK in the incremental variant").
        first, self.opened = not self.opened, True
        held = dict(request.initial_resource_versions) if first else {}
        if len(held) > NAMES_LIMIT:
            raise ProtocolError(f"{len(held)} initial_resource_versions; at most {NAMES_LIMIT} are accepted")
        shift = self.subscription.change(request.resource_names_subscribe, request.resource_names_unsubscribe)
        received = self._settle(request)
        self._apply(shift, held, first)
        if held:
            self.returning = True
            # A first answer is owed even if it is empty, but not to a client that has had one.
            self._due = False
            if not self.holdings.pending:
                self._recognise(str(self._version))
        return received

    @staticmethod
    def _telling(type_url: str, kind: Kind) -> Telling:
        return _TELLING

    def _build(
        self, response: Response, fresh: Collection[str], denied: Iterable[str], gone: Iterable[str]
    ) -> Response:
        return msgspec.structs.replace(
            response,
            resources=tuple(self.holdings.served[n] for n in fresh),
            removed=tuple(sorted((*denied, *gone))),
            unknown=frozenset(denied),
        )


_TELLING = Telling(
    removal=True,
    absence=True,
    is_whole=False,
    # It may have kept what it refused from before it asked again: then it has to be told when that is gone.
    after_refusal=Lacks.ASKED,
    counts=False,
)


class DeltaStream(Stream[DeltaDiscoveryRequest]):
    """A delta stream, aggregated or of one type."""

    _substream_type = DeltaSubstream
