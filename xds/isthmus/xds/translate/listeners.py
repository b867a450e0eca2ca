"""Listeners: one for all HTTP that leaves the workload, and one per TCP port of a service on its virtual IP.

Beside them those of HTTP at addresses, for callers that use a service's name and port and know of no proxy, and those of ports,
for connections that are redirected to the proxy.
"""

from __future__ import annotations

import datetime as dt

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from isthmus.xds.translate.mesh import MeshSettings

OUTBOUND_HTTP = "outbound_http"
"""Name of the HTTP listener, and of the route configuration that it asks for, as do those at addresses."""
OUTBOUND_CAPTURED = "outbound_captured"
"""Name of the route configuration of redirected connections: what is no service's goes where it was going."""
PASSTHROUGH = "PassthroughCluster"
"""The cluster that leads there, named as in Istio. The bootstrap of a proxy that connections are redirected to has it."""
ANY = "0.0.0.0"
"""In place of an address: connections to any, if there is no listener for the very one."""
VIRTUAL_PORTS = frozenset({15001, 15006})
"""Where connections are redirected to, outbound and inbound, as in Istio: listeners of such a proxy's bootstrap."""
DETECTION = dt.timedelta(seconds=5)
"""How long a redirected connection may be silent before it is taken for a protocol in which the server speaks first."""


def to_http_listener(settings: MeshSettings) -> Listener:
    """Make the listener that routes on the authority, whatever port the caller named."""
    return _listener(OUTBOUND_HTTP, settings.outbound_address, settings.outbound_port, _filter(_manager(OUTBOUND_HTTP)))


def listener_name(address: str, port: int) -> str:
    """Name the listener of a port at an address as Istio does: `127.64.0.1_5432`."""
    return f"{address}_{port}"


def to_address_listener(address: str, port: int) -> Listener:
    """Make the listener that does the same for callers who know of no proxy: the names of services resolve to the address."""
    manager = _manager(OUTBOUND_HTTP)
    manager.http_protocol_options.accept_http_10 = True
    return _listener(listener_name(address, port), address, port, _filter(manager))


def to_captured_listener(port: int) -> Listener:
    """Make the listener of connections to a port anywhere, which are handed to it by the one that they are redirected to.

    What turns out not to be HTTP goes where it was going: who captures a port captures whatever uses it.
    """
    manager = _manager(OUTBOUND_CAPTURED)
    # What goes to others goes as it came, as far as that can be.
    manager.normalize_path.value = False
    manager.http_protocol_options.accept_http_10 = True
    manager.http_protocol_options.default_host_for_http_10 = "http-1.0"
    listener = _listener(listener_name(ANY, port), ANY, port, _filter(manager))
    listener.bind_to_port.value = False
    listener.filter_chains[0].filter_chain_match.CopyFrom(_IS_HTTP)
    passthrough = TcpProxy(stat_prefix=PASSTHROUGH, cluster=PASSTHROUGH)
    listener.default_filter_chain.filters.append(Filter(name=_TCP_PROXY, typed_config=pack(passthrough)))
    listener.listener_filters.extend(_INSPECTORS)
    listener.listener_filters_timeout.FromTimedelta(DETECTION)
    listener.continue_on_listener_filters_timeout = True
    return listener


def to_unbound(listener: Listener) -> Listener:
    """Make a listener one that connections are handed to by another, for its own address."""
    unbound = Listener()
    unbound.CopyFrom(listener)
    unbound.bind_to_port.value = False
    return unbound


def to_tcp_listener(address: str, port: int, cluster: str) -> Listener:
    """Make the listener of one TCP port, which passes connections on to the cluster."""
    proxy = TcpProxy(stat_prefix=cluster, cluster=cluster)
    return _listener(listener_name(address, port), address, port, Filter(name=_TCP_PROXY, typed_config=pack(proxy)))


def pack(message: Message) -> Any:
    """Wrap a message, the same bytes each time."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


_TCP_PROXY = "envoy.filters.network.tcp_proxy"
_IS_HTTP = FilterChainMatch(application_protocols=["http/1.0", "http/1.1", "h2c"])
_INSPECTORS = (
    ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector())),
    ListenerFilter(name="envoy.filters.listener.http_inspector", typed_config=pack(HttpInspector())),
)


def _manager(routes: str) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix="outbound",
        rds=Rds(
            route_config_name=routes,
            config_source=ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3),
        ),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))],
        upgrade_configs=[HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        # The caller is the workload itself: its headers are its own, and the answers' are the server's.
        use_remote_address=BoolValue(value=False),
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        generate_request_id=BoolValue(value=True),
        normalize_path=BoolValue(value=True),
        strip_trailing_host_dot=True,
        # Envoy would end streams that are silent for five minutes; long gRPC streams are (Istio turns it off as well).
        stream_idle_timeout=dt.timedelta(0),
    )


def _filter(manager: HttpConnectionManager) -> Filter:
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))


def _listener(name: str, address: str, port: int, network_filter: Filter) -> Listener:
    return Listener(
        name=name,
        address=Address(socket_address=SocketAddress(address=address, port_value=port)),
        filter_chains=[FilterChain(filters=[network_filter])],
        traffic_direction=TrafficDirection.OUTBOUND,
    )
