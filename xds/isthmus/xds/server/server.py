"""The pump around the protocol machines: requests in, shared bytes out, and what each proxy is known to have.

Everything here is synchronous and runs on the loop's thread. A stream has an outbox that is refilled from its machine only when
it is empty, so a proxy that reads slowly holds the pointers of one round of responses and then gets the newest state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable

import grpc
import structlog
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from isthmus.xds import encode
from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Outcome, Received, Response
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.protocol.stream import ProtocolError
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.status import ProxyStatus, ProxyType
from isthmus.xds.server.transport import Event, EventKind, TLSConfig, Transport
from isthmus.xds.store import EMPTY

log = structlog.get_logger()

SOTW_PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
DELTA_PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

EARLY_REQUESTS = 64
"""Requests that a stream may send before there is anything to answer with; a client needs four."""
NODE_LIMIT = 256
"""Characters of a node id or cluster that are kept."""
REMEMBERED_GENERATIONS = 256
"""Generations whose time of change is kept, to tell how old a change was when it was acknowledged."""


_SERVED = {str(t): t for t in TypeUrl}
"""What is counted; delta streams answer for other types too, with nothing."""


class _Proxy:
    """One open stream."""

    def __init__(self, event: Event, machine: SotwStream | DeltaStream) -> None:
        self.id = event.id
        self.peer = event.peer
        self.machine = machine
        self.connected_since = time.time()
        self.node = ""
        self.cluster = ""
        self.user_agent = ""
        self.early: list[bytes] = []
        self.outbox: deque[tuple[Response, bytes]] = deque()
        self.blocked = False
        self.refused = False
        """Its stream is being closed; what still comes from it is not looked at."""
        self.behind = False
        """A newer snapshot came while the outbox was not empty."""
        self.timer: asyncio.TimerHandle | None = None
        self.acked_generation: dict[TypeUrl, int] = {}
        self.lag_ms: dict[TypeUrl, float] = {}

    @property
    def is_delta(self) -> bool:
        return isinstance(self.machine, DeltaStream)


class XdsServer:
    """Serves one resource snapshot at a time, over ADS in both variants, to any number of proxies."""

    def __init__(self, transport: Transport, metrics: XdsMetrics, identifier: str) -> None:
        self._transport = transport
        self.metrics = metrics
        self._control_plane = base_pb2.ControlPlane(identifier=identifier).SerializeToString()
        self._snapshot = EMPTY
        self._changed_at: dict[int, float] = {}
        self._proxies: dict[int, _Proxy] = {}
        self._encoded: dict[object, bytes] = {}
        self._closing = False

    def start(self) -> None:
        """Begin to take events; streams wait for the first snapshot."""
        self._transport.start(asyncio.get_running_loop(), self._on_events)

    async def listen(self, address: str, tls: TLSConfig | None = None) -> str:
        """Serve on an address; returns the real one. Raises OSError when it cannot be bound."""
        return await self._transport.listen(address, tls)

    async def stop(self, grace: float) -> None:
        """End all streams, so that proxies go to another replica or come back."""
        self._closing = True
        for proxy in self._proxies.values():
            _cancel_timer(proxy)
        await self._transport.stop(grace)

    @property
    def snapshot(self) -> ResourceSnapshot:
        """What is being served."""
        return self._snapshot

    def update(self, snapshot: ResourceSnapshot) -> None:
        """Serve another generation, and push what differs to everyone who asked for it."""
        if snapshot is self._snapshot:
            return
        first = self._snapshot.generation == 0
        self._snapshot = snapshot
        self.metrics.generation.set(snapshot.generation)
        if snapshot.changed_at is not None:
            self._changed_at[snapshot.generation] = snapshot.changed_at
            self._changed_at.pop(snapshot.generation - REMEMBERED_GENERATIONS, None)
        for proxy in self._proxies.values():
            proxy.machine.update(snapshot)
            proxy.behind = bool(proxy.outbox)
        if first:
            for proxy in list(self._proxies.values()):
                early, proxy.early = proxy.early, []
                for message in early:
                    if not proxy.refused:
                        self._receive(proxy, message)
        self._pump(list(self._proxies.values()))

    def proxies(self) -> list[ProxyStatus]:
        """Every connected proxy, by node id and peer."""
        return sorted((_status(p) for p in self._proxies.values()), key=lambda p: (p.node, p.peer))

    def followers(self, type_url: TypeUrl, name: str) -> list[tuple[str, bool, str]]:
        """For each proxy its node id, whether it has one resource as it is served now, and that in words."""
        current = self._snapshot.of_type(type_url).get(name)
        out: list[tuple[str, bool, str]] = []
        for proxy in self._proxies.values():
            told = proxy.machine.told(type_url, name)
            status = next((s for s in proxy.machine.status() if s.type_url == type_url), None)
            same = told is not None and current is not None and told.version == current.version
            if told is None or status is None:
                text, same = "has not asked for it", False
            elif not same:
                text = "was sent an older state; a newer one waits for its acknowledgement"
            elif status.in_flight:
                text, same = "was sent it and has not acknowledged it yet", False
            elif status.error:
                text, same = f"rejected the last push: {status.error}", False
            else:
                text = "has acknowledged it"
            out.append((proxy.node or proxy.peer, same, text))
        return sorted(out)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if event.kind is EventKind.OPEN:
                self._open(event)
                continue
            proxy = self._proxies.get(event.id)
            if proxy is None or (proxy.refused and event.kind is not EventKind.CLOSED):
                continue
            match event.kind:
                case EventKind.MESSAGE:
                    self._message(proxy, event.message)
                case EventKind.WRITABLE:
                    proxy.blocked = False
                    self._pump([proxy])
                case EventKind.CLOSED:
                    self._closed(proxy, event.reason)
                case EventKind.HALF_CLOSED:
                    self._transport.close([proxy.id], grpc.StatusCode.OK.value[0], "")

    def _open(self, event: Event) -> None:
        match event.path:
            case path if path == SOTW_PATH:
                machine: SotwStream | DeltaStream = SotwStream(self._snapshot)
            case path if path == DELTA_PATH:
                machine = DeltaStream(self._snapshot)
            case _:
                text = f"{event.path} is not served; use the aggregated discovery service (ADS), delta or state of the world"
                self._transport.close([event.id], grpc.StatusCode.UNIMPLEMENTED.value[0], text)
                return
        self._proxies[event.id] = _Proxy(event, machine)
        self.metrics.streams.set(len(self._proxies))

    def _closed(self, proxy: _Proxy, reason: str) -> None:
        _cancel_timer(proxy)
        del self._proxies[proxy.id]
        self.metrics.streams.set(len(self._proxies))
        if not self._closing:
            log.info("xds.disconnected", node=proxy.node, peer=proxy.peer, reason=reason)

    def _message(self, proxy: _Proxy, message: bytes) -> None:
        if self._snapshot.generation:
            self._receive(proxy, message)
            self._pump([proxy])
        elif len(proxy.early) < EARLY_REQUESTS:
            proxy.early.append(message)
        else:
            self._refuse(proxy, f"more than {EARLY_REQUESTS} requests before the first answer")

    def _receive(self, proxy: _Proxy, message: bytes) -> None:
        request: discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest
        try:
            if isinstance(proxy.machine, DeltaStream):
                request = discovery_pb2.DeltaDiscoveryRequest.FromString(message)
                self._introduce(proxy, request.node)
                received = proxy.machine.receive(request, time.monotonic())
            else:
                request = discovery_pb2.DiscoveryRequest.FromString(message)
                self._introduce(proxy, request.node)
                received = proxy.machine.receive(request, time.monotonic())
        except DecodeError:
            self._refuse(proxy, "the request is not a discovery request")
        except ProtocolError as e:
            self._refuse(proxy, str(e))
        else:
            self._account(proxy, received)

    def _introduce(self, proxy: _Proxy, node: base_pb2.Node) -> None:
        """Keep of the node what grouping and status need; Envoy's first message brings 60 KB of extension names."""
        if proxy.node:
            return
        if not node.id:
            raise ProtocolError("the first request has no node.id; set `node.id` in the proxy's bootstrap")
        proxy.node = node.id[:NODE_LIMIT]
        proxy.cluster = node.cluster[:NODE_LIMIT]
        version = node.user_agent_build_version.version
        proxy.user_agent = (
            f"{node.user_agent_name} {version.major_number}.{version.minor_number}.{version.patch}"
            if node.HasField("user_agent_build_version")
            else f"{node.user_agent_name} {node.user_agent_version}".strip()
        )[:NODE_LIMIT]
        log.info("xds.connected", node=proxy.node, peer=proxy.peer, user_agent=proxy.user_agent, delta=proxy.is_delta)

    def _account(self, proxy: _Proxy, received: Received) -> None:
        settled = received.settled
        type_url = _SERVED.get(received.type_url)
        if settled is None or type_url is None:
            return
        if received.outcome is Outcome.NACKED:
            self.metrics.nacks[type_url].inc()
            log.warning(
                "xds.nack",
                node=proxy.node,
                type=type_url.short,
                version=settled.version,
                resources=[r.name for r in settled.resources[:10]],
                error=received.error,
            )
            return
        self.metrics.acks[type_url].inc()
        since = self._changed_since(proxy.acked_generation.get(type_url, 0), settled)
        proxy.acked_generation[type_url] = settled.generation
        if since is not None and not settled.is_initial:
            lag = time.monotonic() - since
            self.metrics.change_to_ack[type_url].observe(lag)
            proxy.lag_ms[type_url] = lag * 1000

    def _changed_since(self, acked: int, settled: Response) -> float | None:
        """When the earliest change was read that this response brought; several may have been sent as one."""
        oldest = max(acked + 1, settled.generation - REMEMBERED_GENERATIONS + 1)
        times = (self._changed_at.get(g) for g in range(oldest, settled.generation + 1))
        return min((t for t in times if t is not None), default=None)

    def _refuse(self, proxy: _Proxy, text: str) -> None:
        proxy.refused = True
        log.warning("xds.refused", node=proxy.node, peer=proxy.peer, reason=text)
        self._transport.close([proxy.id], grpc.StatusCode.INVALID_ARGUMENT.value[0], text)

    def _pump(self, proxies: Iterable[_Proxy]) -> None:
        """Send what is due. Streams that are due the same bytes are handed to the transport together."""
        if not self._snapshot.generation:
            return
        now = time.monotonic()
        ready: list[_Proxy] = []
        for proxy in proxies:
            if proxy.refused:
                continue
            if not proxy.outbox:
                self._refill(proxy, now)
            if proxy.outbox and not proxy.blocked:
                ready.append(proxy)
        while ready:
            groups: dict[int, tuple[bytes, list[_Proxy]]] = {}
            for proxy in ready:
                message = proxy.outbox[0][1]
                groups.setdefault(id(message), (message, []))[1].append(proxy)
            ready = []
            for message, group in groups.values():
                refused = set(self._transport.send([p.id for p in group], message))
                for proxy in group:
                    if proxy.id in refused:
                        proxy.blocked = True
                        continue
                    self._sent(proxy.outbox.popleft())
                    if proxy.behind and not proxy.outbox:
                        self._refill(proxy, now)
                    if proxy.outbox:
                        ready.append(proxy)
        self._encoded.clear()

    def _refill(self, proxy: _Proxy, now: float) -> None:
        proxy.behind = False
        proxy.outbox.extend((r, self._encode(proxy, r)) for r in proxy.machine.responses(now))
        self._set_timer(proxy, now)

    def _sent(self, item: tuple[Response, bytes]) -> None:
        response, message = item
        type_url = _SERVED.get(response.type_url)
        if type_url is None:
            return
        self.metrics.pushes[type_url].inc()
        self.metrics.push_bytes[type_url].inc(len(message))
        self.metrics.resources[type_url].inc(len(response.resources) + len(response.removed))

    def _encode(self, proxy: _Proxy, response: Response) -> bytes:
        """The response's bytes, made once for all streams that are due the same in this round."""
        key = (
            proxy.is_delta,
            response.type_url,
            response.version,
            response.nonce,
            response.removed,
            tuple(map(id, response.resources)),
        )
        message = self._encoded.get(key)
        if message is None:
            to_bytes = encode.to_delta_discovery_response if proxy.is_delta else encode.to_discovery_response
            message = self._encoded[key] = to_bytes(response, self._control_plane)
        return message

    def _set_timer(self, proxy: _Proxy, now: float) -> None:
        _cancel_timer(proxy)
        wake_at = proxy.machine.wake_at
        if wake_at is not None:
            loop = asyncio.get_running_loop()
            proxy.timer = loop.call_later(max(0.0, wake_at - now), self._pump, [proxy])


def _cancel_timer(proxy: _Proxy) -> None:
    if proxy.timer is not None:
        proxy.timer.cancel()
        proxy.timer = None


def _status(proxy: _Proxy) -> ProxyStatus:
    types: list[ProxyType] = []
    for status in proxy.machine.status():
        with contextlib.suppress(ValueError):
            type_url = TypeUrl(status.type_url)
            if status.error:
                state = "REJECTED"
            elif not status.sent:
                state = "NOT SENT"
            else:
                state = "STALE" if status.in_flight or status.pending else "SYNCED"
            lag = proxy.lag_ms.get(type_url)
            types.append(
                ProxyType(
                    type=type_url.short,
                    state=state,
                    sent=status.sent,
                    acked=status.acked,
                    subscribed=-1 if status.wildcard else status.subscribed,
                    lag_ms=None if lag is None else round(lag, 1),
                    error=status.error,
                )
            )
    return ProxyStatus(
        node=proxy.node,
        cluster=proxy.cluster,
        peer=proxy.peer,
        variant="delta" if proxy.is_delta else "sotw",
        user_agent=proxy.user_agent,
        connected_since=proxy.connected_since,
        types=tuple(types),
    )
