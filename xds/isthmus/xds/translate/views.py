"""What each group of proxies is served, made from one translation.

Every view but the plain Envoys' is made by `make`, when there is somebody for it: a mesh without them never pays for theirs.
What was made from one translation is the start of what is made from the next. The views of Envoys that want more listeners are
the plain one but for these, and generations that both have are numbered alike, so that their streams share most responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds.group import Kind, Outbound, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.store import EMPTY, Resources, derive, publish
from isthmus.xds.translate.dns_tables import DnsView, to_dns_view
from isthmus.xds.translate.grpc_listeners import GrpcListeners
from isthmus.xds.translate.grpc_view import GrpcView, to_grpc_view
from isthmus.xds.translate.outbound import Addresses, Captured, to_addresses, to_captured
from isthmus.xds.translate.translation import Translation

V = TypeVar("V")


class _Line(Generic[V]):
    """Something that is made when it is asked for: as it is now, if it was, and as it was when it was made last."""

    def __init__(self, last: V | None = None, affected: frozenset[ServiceKey] | None = None) -> None:
        self.now: V | None = None
        self.last = last
        self.affected = affected
        """The services that took part in what has changed since; None: any."""

    def next(self, translation: Translation) -> _Line[V]:
        """The line after one more translation."""
        return _Line(self.now, translation.affected) if self.now is not None else _Line(self.last)


class _Lines(msgspec.Struct):
    """All that is made when it is asked for."""

    grpc: _Line[GrpcView]
    names: _Line[DnsView]
    addresses: _Line[Addresses]
    captured: _Line[Captured]
    snapshots: Mapping[ProxyGroup, _Line[ResourceSnapshot]]

    def next(self, translation: Translation) -> _Lines:
        return _Lines(
            self.grpc.next(translation),
            self.names.next(translation),
            self.addresses.next(translation),
            self.captured.next(translation),
            {group: line.next(translation) for group, line in self.snapshots.items()},
        )


class Views(Mapping[ProxyGroup, ResourceSnapshot | None]):
    """Snapshots by group, None for what is still to be made. Each kind of client counts its own generations.

    `make` and `next` may be called from any thread, but not both at once.

    `changed_at` is the monotonic second at which the change was read that led to the translation.
    """

    def __init__(
        self,
        translation: Translation,
        changed_at: float | None = None,
        *,
        envoy: ResourceSnapshot = EMPTY,
        lines: _Lines | None = None,
    ) -> None:
        """Make the first views; `next` makes those that follow, from what was published before them."""
        self._translation = translation
        self._changed_at = changed_at
        self._lines = lines or _Lines(_Line(), _Line(), _Line(), _Line(), {group: _Line() for group in _ON_REQUEST})
        last = [line.last for group, line in self._lines.snapshots.items() if group.kind is Kind.ENVOY]
        numbered = max((snapshot.generation for snapshot in last if snapshot), default=0)
        self.envoy = publish(envoy, translation.resources, translation.changed, changed_at, after=numbered)

    def next(self, translation: Translation, changed_at: float | None = None) -> Views:
        """The views of the translation that was made from the one of these."""
        return Views(translation, changed_at, envoy=self.envoy, lines=self._lines.next(translation))

    def make(self, group: ProxyGroup) -> ResourceSnapshot:
        """The snapshot of a group, made now if it was not made before, which takes long in a large mesh."""
        line = self._lines.snapshots.get(group)
        if line is None:
            return self.envoy
        if line.now is None:
            line.now = self._make(group, line.last)
        return line.now

    def __getitem__(self, group: ProxyGroup) -> ResourceSnapshot | None:
        return self.envoy if group == _PLAIN else self._lines.snapshots[group].now

    def __iter__(self) -> Iterator[ProxyGroup]:
        yield _PLAIN
        yield from self._lines.snapshots

    def __len__(self) -> int:
        return 1 + len(self._lines.snapshots)

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """What some kind of client cannot be told, as far as it was asked for."""
        lines = self._lines
        made = (lines.grpc.now, lines.names.now, lines.captured.now or lines.addresses.now)
        return tuple(conflict for view in made if view for conflict in view.conflicts)

    def _make(self, group: ProxyGroup, last: ResourceSnapshot | None) -> ResourceSnapshot:
        match group.kind, group.outbound:
            case Kind.GRPC, _:
                grpc = self._made_grpc()
                resources = {**grpc.resources, TypeUrl.LISTENER: GrpcListeners(grpc.resources[TypeUrl.LISTENER])}
                return publish(last or _NO_CLIENTS, resources, grpc.changed, self._changed_at)
            case Kind.AGENT, _:
                names = self._made_names()
                return publish(last or EMPTY, names.resources, names.changed, self._changed_at)
            case _, Outbound.CAPTURED:
                captured = self._made_captured()
                own: Resources = {TypeUrl.LISTENER: captured.listeners, TypeUrl.ROUTE: captured.routes}
            case _:
                own = {TypeUrl.LISTENER: self._made_addresses().listeners}
        return derive(last or EMPTY, self.envoy, own, self._changed_at)

    def _made_grpc(self) -> GrpcView:
        line = self._lines.grpc
        line.now = line.now or to_grpc_view(self._translation, line.last, line.affected)
        return line.now

    def _made_names(self) -> DnsView:
        line = self._lines.names
        line.now = line.now or to_dns_view(self._translation, line.last, line.affected)
        return line.now

    def _made_addresses(self) -> Addresses:
        line = self._lines.addresses
        line.now = line.now or to_addresses(self._translation, line.last, line.affected)
        return line.now

    def _made_captured(self) -> Captured:
        line = self._lines.captured
        line.now = line.now or to_captured(self._translation, self._made_addresses(), line.last)
        return line.now


_NO_CLIENTS = msgspec.structs.replace(EMPTY, resources={TypeUrl.LISTENER: GrpcListeners({})})
"""A mesh without a service has listeners for servers."""
_PLAIN = ProxyGroup(Kind.ENVOY)
_ON_REQUEST = (
    ProxyGroup(Kind.GRPC),
    ProxyGroup(Kind.AGENT),
    ProxyGroup(Kind.ENVOY, Outbound.ADDRESSES),
    ProxyGroup(Kind.ENVOY, Outbound.CAPTURED),
)
