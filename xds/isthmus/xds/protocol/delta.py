"""Incremental xDS: requests add and take away names, responses carry what changed and name what is gone."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from isthmus.xds.protocol.response import Received
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.subscription import NAMES_LIMIT, ProtocolError
from isthmus.xds.protocol.substream import Substream
from isthmus.xds.resource import Resource, TypeUrl


class DeltaSubstream(Substream[DeltaDiscoveryRequest]):
    """One type of a delta stream. The version of a response is the type's, for people; resources have their own."""

    def receive(self, request: DeltaDiscoveryRequest) -> Received:
        # A subscription is changed by any request, whatever its nonce and error_detail say of a response
        # (xDS protocol, "ACK/NACK in the incremental variant").
        held = {} if self.opened else request.initial_resource_versions
        if len(held) > NAMES_LIMIT:
            raise ProtocolError(f"{len(held)} initial_resource_versions; at most {NAMES_LIMIT} are accepted")
        shift = self.subscription.change(request.resource_names_subscribe, request.resource_names_unsubscribe)
        received = self._settle(request)
        self.opened = True
        if held:
            self.returning = True
            self._take_over(held)
            shift = msgspec.structs.replace(shift, asked=shift.asked - held.keys())
        self._apply(shift)
        if held:
            # A first answer is owed even if it is empty, but not to a client that has had one.
            self._due = False
            if not self.pending:
                self._recognise(self._version)
        return received

    def _take_over(self, held: Mapping[str, str]) -> None:
        """What the client kept from an earlier stream is not sent again where it is the same, and told where it is not."""
        names = [n for n in held if self.subscription.wants(n)]
        for name in names:
            current = self._resources.get(name)
            same = current is not None and current.version == held[name]
            # Of what differs nothing but the version is known, nor is more needed.
            self._tell(name, current if same else Resource(TypeUrl.CLUSTER, name, held[name], b""))
        self._compare(names)

    @property
    def _tells_absence(self) -> bool:
        return True

    def _content(self, fresh: list[str], gone: list[str]) -> tuple[str, tuple[Resource, ...], tuple[str, ...]]:
        return self._version, tuple(self._resources[n] for n in fresh), tuple(gone)


class DeltaStream(Stream[DeltaDiscoveryRequest]):
    """A delta ADS stream."""

    def _open(self, type_url: str, resources: Mapping[str, Resource], generation: int, version: str) -> DeltaSubstream:
        return DeltaSubstream(type_url, resources, generation, version)
