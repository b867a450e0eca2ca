"""Listeners for gRPC: one for each name that a client may call, and one for each address that a server may listen on.

A client asks for the listener that is named like its target: `xds:///reviews.default.mesh:9080`. Whatever the name, the listener
of a port is the same otherwise, its routes included, so that part is encoded once and the names are put before it
(https://protobuf.dev/programming-guides/encoding/#last-one-wins).

A server asks by its address, through a template in its bootstrap. What it is told follows from the address alone: a server needs
its listener before it serves, and most register themselves after that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    NonForwardingAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.xds.grpc_bootstrap import SERVER_LISTENER
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.listeners import pack

_RETRIES = RetryPolicy(retry_on="unavailable,cancelled", num_retries=UInt32Value(value=2))
"""Those of Envoy's retries (see routes.py) that gRPC knows (gRFC A44)."""
_SERVERS = SERVER_LISTENER.removesuffix("%s")


def encode_api_listener(cluster: str) -> bytes:
    """Encode all of a client's listener but its name: whatever is called goes to the cluster."""
    route = Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=cluster, retry_policy=_RETRIES))
    listener = Listener(api_listener=ApiListener(api_listener=_connections("outbound", route)))
    return listener.SerializeToString(deterministic=True)


def to_client_listener(name: str, api_listener: bytes) -> Resource:
    """Make the listener of one name."""
    return Resource.of_bytes(TypeUrl.LISTENER, name, Listener(name=name).SerializeToString() + api_listener)


class GrpcListeners(Mapping[str, Resource]):
    """The listeners of clients, and beyond them that of any server that asks.

    Iteration has the clients' alone; those of servers never change, and are made when they are looked up.
    """

    def __init__(self, clients: Mapping[str, Resource]) -> None:
        self._clients = clients

    def __getitem__(self, name: str) -> Resource:
        found = self._clients.get(name)
        if found is not None:
            return found
        listener = _to_server_listener(name)
        if listener is None:
            raise KeyError(name)
        return Resource.of(TypeUrl.LISTENER, name, listener)

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


def _to_server_listener(name: str) -> Listener | None:
    """Make the listener of a server, which lets every call in; None when the name has no address that can be listened on."""
    if not name.startswith(_SERVERS):
        return None
    host, _, port = name.removeprefix(_SERVERS).rpartition(":")
    # The address must be the server's own, letter for letter.
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        return None
    route = Route(match=RouteMatch(prefix="/"), non_forwarding_action=NonForwardingAction())
    calls = Filter(name="envoy.filters.network.http_connection_manager", typed_config=_connections("inbound", route))
    return Listener(
        name=name,
        address=Address(socket_address=SocketAddress(address=bare, port_value=int(port))),
        filter_chains=[FilterChain(filters=[calls])],
        traffic_direction=TrafficDirection.INBOUND,
    )


def _connections(name: str, route: Route) -> Any:
    # The routes come along: one round trip less than by name, and no moment with the one and without the other (gRFC A74).
    return pack(
        HttpConnectionManager(
            stat_prefix=name,
            route_config=RouteConfiguration(
                name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])]
            ),
            http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))],
        )
    )
