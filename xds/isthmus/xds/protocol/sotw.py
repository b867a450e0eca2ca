"""State of the world: each request lists all names, and what a response means by silence depends on the type.

For clusters and listeners a response is the whole truth: what it leaves out is gone. For the others it may be partial, and
absence cannot be told at all, so only what is new or changed is sent
(xDS protocol, "Deleting Resources" and "Knowing When a Requested Resource Does Not Exist").
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from isthmus.xds.protocol.response import Outcome, Received
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.substream import WHOLE_TYPES, Substream
from isthmus.xds.resource import Resource, SetVersion


class SotwSubstream(Substream[DiscoveryRequest]):
    """One type of a state-of-the-world stream.

    The version of a response is that of everything which the client then has and wants, also if the response brings a part of it.
    So a client that comes back with it and with the same names has it all, whichever replica it comes to.
    """

    def __init__(self, type_url: str, resources: Mapping[str, Resource], generation: int, version: str) -> None:
        super().__init__(type_url, resources, generation, version)
        self._told_version = SetVersion()

    def receive(self, request: DiscoveryRequest) -> Received:
        received = self._settle(request)
        if received.outcome is Outcome.STALE and self.in_flight is None:
            return received
        # With a response in flight a stale list is not answered, but it counts: the next one may be longer again, and what was
        # missing between them has been forgotten. An empty nonce is never stale: requests cross (envoyproxy/envoy#10363).
        first, self.opened = not self.opened, True
        shift = self.subscription.replace(request.resource_names)
        self.returning |= first and bool(request.version_info)
        if not (first and request.version_info and self._has_all(request.version_info)):
            self._apply(shift)
        return received

    def _has_all(self, version: str) -> bool:
        """Whether a client that comes back with a version has all that it would be sent; if so, that counts as told."""
        available, subscription = self._resources.keys(), self.subscription
        wanted = available if subscription.wildcard else available & subscription.names
        for name in wanted:
            self._tell(name, self._resources[name])
        if version == str(self._told_version):
            self._recognise(version)
            return True
        self._drop(wanted)
        return False

    @property
    def _tells_absence(self) -> bool:
        return self.type_url in WHOLE_TYPES

    def _content(self, fresh: list[str], gone: list[str]) -> tuple[str, tuple[Resource, ...], tuple[str, ...]]:
        names = self.told if self._tells_absence else fresh
        return str(self._told_version), tuple(r for n in sorted(names) if (r := self.told[n])), ()

    def _tell(self, name: str, resource: Resource | None) -> None:
        before = self.told.get(name)
        self._told_version = self._told_version.replace(
            name, before.version if before else None, resource.version if resource else None
        )
        super()._tell(name, resource)


class SotwStream(Stream[DiscoveryRequest]):
    """A state-of-the-world ADS stream."""

    def _open(self, type_url: str, resources: Mapping[str, Resource], generation: int, version: str) -> SotwSubstream:
        return SotwSubstream(type_url, resources, generation, version)
