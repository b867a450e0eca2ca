"""What comes in on a stream of the xDS protocol: checked against the limits, then given to its machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import DecodeError

from isthmus.xds.group import ProxyGroup
from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Received
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.protocol.subscription import ProtocolError
from isthmus.xds.server.accounts import Accounts
from isthmus.xds.server.calls import Proxy
from isthmus.xds.server.limits import Limits
from isthmus.xds.server.refusal import too_much, wrong
from isthmus.xds.server.views import View

log = structlog.get_logger()

Request = DiscoveryRequest | DeltaDiscoveryRequest


class Requests:
    """Takes the requests of all discovery streams. `view_of` gives what a group is served, None as long as there is nothing."""

    def __init__(self, limits: Limits, accounts: Accounts, view_of: Callable[[ProxyGroup], View | None]) -> None:
        self._limits = limits
        self._accounts = accounts
        self._view_of = view_of

    def receive(self, proxy: Proxy, message: bytes) -> bool:
        """Take one request; False if it has to wait, since nothing is served yet.

        Raises:
            Refusal: the stream cannot go on.

        """
        try:
            request = (DeltaDiscoveryRequest if proxy.delta else DiscoveryRequest).FromString(message)
        except DecodeError:
            raise wrong("protocol", "the request is not a discovery request") from None
        if proxy.group is None:
            self._introduce(proxy, request, len(message))
        if proxy.machine is None:
            view = self._view_of(proxy.group) if proxy.group else None
            if view is None:
                return False
            proxy.begin(view)
        if proxy.type_url is not None:
            if request.type_url not in ("", proxy.type_url):
                raise wrong("protocol", f"asks for {request.type_url} from the service of {proxy.type_url}")
            request.type_url = proxy.type_url
        try:
            received = _give(proxy, request)
        except ProtocolError as e:
            self._check_names(proxy, request, of_request=True)
            raise wrong("protocol", str(e)) from None
        self._check_names(proxy, request)
        self._accounts.settled(proxy, received)
        return True

    def _introduce(self, proxy: Proxy, request: Request, message_size: int) -> None:
        limit = self._limits.node_bytes
        if message_size > limit and (size := request.node.ByteSize()) > limit:
            raise too_much("node", f"the node has {size} bytes", "node_bytes", limit)
        proxy.introduce(request.node)
        log.info("xds.connected", node=proxy.node, peer=proxy.peer, user_agent=proxy.user_agent, delta=proxy.delta)
        if proxy.remark:
            log.warning("xds.node_remark", node=proxy.node, peer=proxy.peer, remark=proxy.remark)

    def _check_names(self, proxy: Proxy, request: Request, *, of_request: bool = False) -> None:
        """Names count when they are asked for; an acknowledgement in the delta variant brings none."""
        added = (
            request.resource_names_subscribe if isinstance(request, DeltaDiscoveryRequest) else request.resource_names
        )
        if not added or proxy.machine is None:
            return
        names = proxy.machine.subscribed + (len(added) if of_request else 0)
        if names > self._limits.subscriptions:
            what = f"{names} names are asked for on this stream"
            raise too_much("subscriptions", what, "subscriptions", self._limits.subscriptions)


def _give(proxy: Proxy, request: Request) -> Received:
    machine, now = proxy.machine, time.monotonic()
    if isinstance(request, DeltaDiscoveryRequest) and isinstance(machine, DeltaStream):
        return machine.receive(request, now)
    if isinstance(request, DiscoveryRequest) and isinstance(machine, SotwStream):
        return machine.receive(request, now)
    raise TypeError(f"{type(machine)} does not take a {type(request)}")
