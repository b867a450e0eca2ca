"""A transport without a network: a test plays the clients, and looks at what was sent to each."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import grpc
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
)
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import Resource, ResourceSnapshot, TypeUrl
from isthmus.xds.server.limits import Limits
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.server import XdsServer
from isthmus.xds.server.services import DELTA_PATH, SOTW_PATH
from isthmus.xds.server.transport import Event, EventKind, TLSConfig
from isthmus.xds.server.views import ENVOY_GROUP
from isthmus.xds.store import EMPTY, publish

GRPC_GROUP = ProxyGroup(Kind.GRPC)


class Wire:
    """Keeps the transport's rules strictly: what is paused is not delivered, what is stuck is refused."""

    def __init__(self) -> None:
        self.sent: defaultdict[int, list[bytes]] = defaultdict(list)
        self.closed: dict[int, tuple[grpc.StatusCode, str]] = {}
        self.stuck: set[int] = set()
        """Streams whose client does not read."""
        self.paused: set[int] = set()
        self._waiting: defaultdict[int, list[bytes]] = defaultdict(list)
        self._ids = itertools.count(1)
        self._on_events: Callable[[list[Event]], None] = lambda _: None

    def start(self, loop: asyncio.AbstractEventLoop, on_events: Callable[[list[Event]], None]) -> None:
        self._on_events = on_events

    async def listen(self, address: str, tls: Callable[[], TLSConfig] | None) -> str:
        return address

    def send(self, ids: Sequence[int], message: bytes) -> list[int]:
        for stream in ids:
            if stream not in self.stuck and stream not in self.closed:
                self.sent[stream].append(message)
        return [i for i in ids if i in self.stuck]

    def pause(self, ids: Sequence[int]) -> None:
        self.paused |= set(ids)

    def resume(self, ids: Sequence[int]) -> None:
        self.paused -= set(ids)
        for stream in ids:
            while self._waiting[stream] and stream not in self.paused:
                self._emit(EventKind.MESSAGE, stream, message=self._waiting[stream].pop(0))

    def close(self, ids: Sequence[int], status: int, details: str) -> None:
        for stream in ids:
            code = next(c for c in grpc.StatusCode if c.value[0] == status)
            self.closed.setdefault(stream, (code, details))

    async def stop(self, grace: float) -> None:
        """Nothing to stop."""

    # What clients do.

    def open(self, path: str = DELTA_PATH) -> int:
        stream = next(self._ids)
        self._on_events([Event(EventKind.OPEN, stream, path=path, peer=f"peer {stream}")])
        return stream

    def say(self, stream: int, message: Message | bytes) -> None:
        body = message if isinstance(message, bytes) else message.SerializeToString()
        if stream in self.paused:
            self._waiting[stream].append(body)
        else:
            self._emit(EventKind.MESSAGE, stream, message=body)

    def finish(self, stream: int) -> None:
        self._emit(EventKind.HALF_CLOSED, stream)

    def leave(self, stream: int) -> None:
        self._emit(EventKind.CLOSED, stream, reason="gone")

    def free(self, stream: int) -> None:
        """Its client reads again."""
        self.stuck.discard(stream)
        self._emit(EventKind.WRITABLE, stream)

    def _emit(self, kind: EventKind, stream: int, *, message: bytes = b"", reason: str = "") -> None:
        self._on_events([Event(kind, stream, message=message, reason=reason)])


class Served:
    """A server on a wire, with what a test needs most."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.wire = Wire()
        self.registry = CollectorRegistry()
        self.server = XdsServer(self.wire, XdsMetrics(self.registry), "test", limits, load_interval=7.0)
        self.server.start()
        self._snapshots: dict[ProxyGroup, ResourceSnapshot] = {}

    def publish(self, clusters: Mapping[str, str], group: ProxyGroup = ENVOY_GROUP) -> None:
        """Serve clusters of these names, with these contents."""
        resources = {n: Resource.of_bytes(TypeUrl.CLUSTER, n, b.encode()) for n, b in clusters.items()}
        before = self._snapshots.get(group, EMPTY)
        self._snapshots[group] = publish(before, {TypeUrl.CLUSTER: resources})
        self.server.update(self._snapshots)

    def snapshot(self, group: ProxyGroup = ENVOY_GROUP) -> ResourceSnapshot:
        """What was published last."""
        return self._snapshots[group]

    def delta(self, *names: str, type_url: str = TypeUrl.CLUSTER, node: str = "envoy", agent: str = "envoy") -> int:
        """A delta stream that has asked."""
        stream = self.wire.open(DELTA_PATH)
        self.wire.say(stream, subscribe(names, type_url, node, agent))
        return stream

    def sotw(self, *names: str, type_url: str = TypeUrl.CLUSTER, node: str = "envoy", agent: str = "envoy") -> int:
        """A state-of-the-world stream that has asked."""
        stream = self.wire.open(SOTW_PATH)
        request = DiscoveryRequest(type_url=type_url, resource_names=names)
        request.node.id, request.node.user_agent_name = node, agent
        self.wire.say(stream, request)
        return stream

    def ack(self, stream: int) -> None:
        """Acknowledge the delta response that came last."""
        last = self.responses(stream)[-1]
        self.wire.say(stream, DeltaDiscoveryRequest(type_url=last.type_url, response_nonce=last.nonce))

    def responses(self, stream: int) -> list[DeltaDiscoveryResponse]:
        return [DeltaDiscoveryResponse.FromString(m) for m in self.wire.sent[stream]]

    def contents(self, stream: int) -> dict[str, str]:
        """What the delta responses to a stream have brought, the latest of each name."""
        return {r.name: r.resource.value.decode() for answer in self.responses(stream) for r in answer.resources}

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def subscribe(
    names: Iterable[str] = (), type_url: str = TypeUrl.CLUSTER, node: str = "envoy", agent: str = "envoy"
) -> DeltaDiscoveryRequest:
    """The first request of a delta stream."""
    request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
    request.node.id, request.node.user_agent_name = node, agent
    return request
