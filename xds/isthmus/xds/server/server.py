"""The xDS server: streams come and go, each with its own rules, and all are told when what they are served changes.

Everything here is synchronous and runs on the loop's thread. What a stream sends is looked at as fast as it may send; beyond that
the transport stops reading from it, and flow control holds the client.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

import grpc
import structlog
from envoy.config.core.v3.base_pb2 import ControlPlane

from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.server.accounts import Accounts
from isthmus.xds.server.calls import Call, Proxy
from isthmus.xds.server.client_status import ClientStatuses
from isthmus.xds.server.discovery import Requests
from isthmus.xds.server.limits import Limits
from isthmus.xds.server.load_reports import LoadReports
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.pump import SLICE_SECONDS, Pump
from isthmus.xds.server.refusal import Refusal, too_much
from isthmus.xds.server.services import METHODS, Discovery, Other
from isthmus.xds.server.standing import follower_of, status_of
from isthmus.xds.server.status import ProxyStatus
from isthmus.xds.server.transport import Event, EventKind, TLSConfig, Transport
from isthmus.xds.server.views import Views

log = structlog.get_logger()

_FULL_LOGGED_EVERY = 10.0
"""Seconds between two log lines that say that no more streams are let in: those who are refused come back soon."""


class XdsServer:
    """Serves each group of proxies its view, over ADS and the types' own services, to any number of proxies.

    `load_interval`: seconds between two load reports of a proxy that offers them.
    """

    def __init__(
        self,
        transport: Transport,
        metrics: XdsMetrics,
        identifier: str,
        limits: Limits | None = None,
        load_interval: float = 10.0,
    ) -> None:
        self.metrics = metrics
        self._transport = transport
        self._limits = limits or Limits()
        self._views = Views()
        self._calls: dict[int, Call] = {}
        self._waiting: deque[Proxy] = deque()
        accounts = Accounts(metrics)
        self._requests = Requests(self._limits, accounts, self._views.of)
        self._pump = Pump(transport, accounts, ControlPlane(identifier=identifier).SerializeToString())
        self._statuses = ClientStatuses(self._answered, self._refuse)
        self._loads = LoadReports(metrics.load, load_interval, self._is_cluster)
        self._full_logged = -_FULL_LOGGED_EVERY
        self._closing = False

    def start(self) -> None:
        """Begin to take events; streams wait for the first views."""
        self._transport.start(asyncio.get_running_loop(), self._on_events)

    async def listen(self, address: str, tls: Callable[[], TLSConfig] | None = None) -> str:
        """Serve on an address; returns the real one. `tls` gives the certificates, for each connection.

        Raises:
            OSError: it cannot be bound.

        """
        return await self._transport.listen(address, tls)

    async def stop(self, grace: float) -> None:
        """End all streams, so that proxies go to another replica or come back."""
        self._closing = True
        for call in self._calls.values():
            call.close()
        await self._transport.stop(grace)

    @property
    def snapshot(self) -> ResourceSnapshot:
        """What Envoys are being served."""
        return self._views.envoy

    @property
    def groups(self) -> frozenset[ProxyGroup]:
        """The groups of which there are proxies."""
        return frozenset(p.group for p in self._proxies() if p.group)

    async def wanted(self) -> None:
        """Wait until there are proxies of a group whose view is None in what was given last; they wait for it."""
        await self._views.wanted.wait()

    async def fanned_out(self) -> None:
        """Wait until everyone has been given what was served last, as far as they take it."""
        await self._pump.idle.wait()

    def update(self, views: Mapping[ProxyGroup, ResourceSnapshot | None]) -> None:
        """Serve other generations, and push what differs to everyone who asked for it.

        `views` is the whole: a group that is not in it is served the Envoys' view, which must be there. Where a view is None
        because it is still to be made, streams go on with what they have, and new ones wait (`wanted`). The streams of a group
        that gets or loses a view of its own are ended, for the generations of two views cannot be compared; what the client has
        of the other view is not sent again when it comes back.

        Raises:
            ValueError: there is no view for Envoys.

        """
        changed = self._views.update(views, self.groups)
        self.metrics.generation.set(self.snapshot.generation)
        proxies = self._proxies()
        for proxy in proxies:
            if proxy.group and proxy.view and proxy.view is not self._views.of(proxy.group):
                text = "what clients of this kind are served comes from elsewhere now; connect again"
                self._end(proxy, grpc.StatusCode.UNAVAILABLE, text)
        if changed:
            self._pump.fan_out(p for p in proxies if p.view in changed and not p.ended)
        going = bool(self._waiting)
        self._waiting = deque(proxy for proxy in proxies if proxy.waits)
        if not going:
            self._let_on()

    def proxies(self) -> list[ProxyStatus]:
        """Every connected proxy that has said its name, by node id and peer."""
        return sorted((status_of(p) for p in self._proxies() if p.node), key=lambda p: (p.node, p.peer))

    def followers(self, type_url: TypeUrl, name: str) -> list[tuple[str, bool, str]]:
        """For each proxy its node id, whether it has one resource as it is served now, and that in words."""
        proxies = [p for p in self._proxies() if p.group and p.group.kind is not Kind.AGENT]
        return sorted((p.node, *follower_of(p, type_url, name)) for p in proxies)

    def _proxies(self) -> list[Proxy]:
        return [c for c in self._calls.values() if isinstance(c, Proxy)]

    def _is_cluster(self, name: str) -> bool:
        return any(name in snapshot.of_type(TypeUrl.CLUSTER) for snapshot in self._views.snapshots)

    def _let_on(self) -> None:
        """Look at what was sent by those who waited for a view, in slices, so that the loop is never held up for long."""
        until = time.monotonic() + SLICE_SECONDS
        while self._waiting:
            proxy = self._waiting.popleft()
            if proxy.waits and not proxy.ended:
                proxy.waits = False
                self._read_on(proxy)
            if time.monotonic() >= until:
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._let_on)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if event.kind is EventKind.OPEN:
                self._open(event)
                continue
            call = self._calls.get(event.id)
            if call is None:
                continue
            match event.kind:
                case EventKind.CLOSED:
                    self._closed(call, event.reason)
                case EventKind.MESSAGE if not call.ended:
                    call.spoke()
                    call.held.append(event.message)
                    if not call.paused:
                        self._read_on(call)
                case EventKind.WRITABLE:
                    call.blocked = False
                    self._send(call)
                case EventKind.HALF_CLOSED if not call.ended:
                    call.finished = True
                    self._send(call)
                case _:
                    pass

    def _open(self, event: Event) -> None:
        try:
            method = self._let_in(event.path)
        except Refusal as refusal:
            self._note(refusal, "", event.peer)
            self._transport.close([event.id], refusal.code.value[0], str(refusal))
            return
        call = Proxy(event, method) if isinstance(method, Discovery) else Call(event, method)
        self._calls[event.id] = call
        patience = self._limits.first_request_seconds
        call.silence = asyncio.get_running_loop().call_later(patience, self._end_silent, call)
        self.metrics.streams.set(len(self._calls))

    def _end_silent(self, call: Call) -> None:
        seconds = self._limits.first_request_seconds
        text = f"no request within {seconds:g} s; xds.limits.first_request_seconds allows no more"
        self._refuse(call, Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "silence", text))

    def _let_in(self, path: str) -> Discovery | Other:
        method = METHODS.get(path)
        if method is None:
            text = f"{path} is not served here; ADS and each type's own service of xDS v3 are, and CSDS and LRS"
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "path", text)
        if len(self._calls) >= self._limits.streams:
            raise too_much("streams", "no more streams are let in", "streams", self._limits.streams)
        return method

    def _closed(self, call: Call, reason: str) -> None:
        call.close()
        call.ended = True
        del self._calls[call.id]
        self.metrics.streams.set(len(self._calls))
        if call.name and not self._closing:
            log.info("xds.disconnected", node=call.name, peer=call.peer, reason=reason)

    def _read_on(self, call: Call) -> None:
        """Look at what has come, as far as the stream may go on; read more from it if so, and later if not."""
        now = time.monotonic()
        call.reading = None
        delay = call.pace.delay(now)
        while call.held and not (delay or call.waits or call.ended):
            call.pace.take(now, self._limits.requests_per_second)
            self._receive(call, call.held.pop(0))
            delay = call.pace.delay(now)
        if call.ended:
            return
        if delay:
            self._note_slow(call)
            call.reading = asyncio.get_running_loop().call_later(delay, self._read_on, call)
        halt = bool(delay) or call.waits
        if halt is not call.paused:
            call.paused = halt
            (self._transport.pause if halt else self._transport.resume)([call.id])

    def _receive(self, call: Call, message: bytes) -> None:
        try:
            if len(message) > self._limits.message_bytes:
                what = f"the request has {len(message)} bytes"
                raise too_much("message", what, "message_bytes", self._limits.message_bytes)
            if isinstance(call, Proxy):
                if not self._requests.receive(call, message):
                    call.held.insert(0, message)
                    call.waits = True
            elif call.method is Other.LOAD_REPORTS:
                self._loads.receive(call, message)
            else:
                self._statuses.receive(call, message, self._proxies())
        except Refusal as refusal:
            self._refuse(call, refusal)
        else:
            self._send(call)

    def _answered(self, call: Call) -> None:
        """Something that takes its time is in the outbox."""
        if call.method is Other.CLIENT_STATUS_ONCE:
            call.finished = True
        self._send(call)
        if call.paused:
            self._read_on(call)

    def _send(self, call: Call) -> None:
        self._pump.push([call])
        if call.finished and not (call.ended or call.waits or call.outbox):
            self._end(call, grpc.StatusCode.OK, "")

    def _note_slow(self, call: Call) -> None:
        if not call.slowed:
            call.slowed = True
            self.metrics.slowed.inc()
            limit = self._limits.requests_per_second
            log.warning("xds.slowed", node=call.name, peer=call.peer, requests_per_second=limit)

    def _refuse(self, call: Call, refusal: Refusal) -> None:
        self._note(refusal, call.name, call.peer)
        self._end(call, refusal.code, str(refusal))

    def _note(self, refusal: Refusal, node: str, peer: str) -> None:
        self.metrics.refused.labels(refusal.reason).inc()
        if refusal.reason == "streams":
            now = time.monotonic()
            if now - self._full_logged < _FULL_LOGGED_EVERY:
                return
            self._full_logged = now
        log.warning("xds.refused", node=node, peer=peer, reason=str(refusal))

    def _end(self, call: Call, code: grpc.StatusCode, text: str) -> None:
        call.close()
        call.ended = True
        call.held.clear()
        call.outbox.clear()
        self._transport.close([call.id], code.value[0], text)
