"""What each group of proxies is served, made from one translation.

The view of gRPC clients is made by `make`, when there is one: a mesh without them never pays for theirs. What was made from one
translation is the start of what is made from the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.store import EMPTY, publish
from isthmus.xds.translate.grpc_listeners import GrpcListeners
from isthmus.xds.translate.grpc_view import GrpcView, to_grpc_view
from isthmus.xds.translate.translation import Translation


class GrpcPublished(msgspec.Struct, frozen=True):
    """The view for gRPC, and the snapshot that it became."""

    view: GrpcView
    snapshot: ResourceSnapshot


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
        grpc: GrpcPublished | None = None,
        affected: frozenset[ServiceKey] | None = None,
    ) -> None:
        """Make the first views; `next` makes those that follow, from what was published before them."""
        self._translation = translation
        self._changed_at = changed_at
        self._grpc: GrpcPublished | None = None
        self._grpc_before = grpc
        self._affected = affected
        self.envoy = publish(envoy, translation.resources, translation.changed, changed_at)

    def next(self, translation: Translation, changed_at: float | None = None) -> Views:
        """The views of the translation that was made from the one of these."""
        return Views(
            translation,
            changed_at,
            envoy=self.envoy,
            grpc=self._grpc or self._grpc_before,
            # The hint holds for what was made from these; what is older is compared as a whole.
            affected=translation.affected if self._grpc else None,
        )

    def make(self, group: ProxyGroup) -> ResourceSnapshot:
        """The snapshot of a group, made now if it was not made before, which takes long in a large mesh."""
        match group.kind:
            case Kind.ENVOY:
                return self.envoy
            case Kind.GRPC:
                if self._grpc is None:
                    self._grpc = self._make_grpc()
                return self._grpc.snapshot

    def __getitem__(self, group: ProxyGroup) -> ResourceSnapshot | None:
        match group.kind:
            case Kind.ENVOY:
                return self.envoy
            case Kind.GRPC:
                return self._grpc.snapshot if self._grpc else None

    def __contains__(self, group: object) -> bool:
        return group in _GROUPS

    def __iter__(self) -> Iterator[ProxyGroup]:
        return iter(_GROUPS)

    def __len__(self) -> int:
        return len(_GROUPS)

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """What some kind of client cannot be told, as far as it was asked for."""
        return self._grpc.view.conflicts if self._grpc else ()

    def _make_grpc(self) -> GrpcPublished:
        before = self._grpc_before
        view = to_grpc_view(self._translation, before.view if before else None, self._affected)
        resources = {**view.resources, TypeUrl.LISTENER: GrpcListeners(view.resources[TypeUrl.LISTENER])}
        snapshot = publish(before.snapshot if before else _NO_CLIENTS, resources, view.changed, self._changed_at)
        return GrpcPublished(view, snapshot)


_NO_CLIENTS = msgspec.structs.replace(EMPTY, resources={TypeUrl.LISTENER: GrpcListeners({})})
"""A mesh without a service has listeners for servers."""
_GROUPS = tuple(ProxyGroup(kind) for kind in Kind)
