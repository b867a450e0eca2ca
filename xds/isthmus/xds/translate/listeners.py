"""Listeners: one for all HTTP that leaves the workload, and one per TCP port of a service on its virtual IP."""

from __future__ import annotations

import datetime as dt

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
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
"""Name of the HTTP listener, and of the route configuration that it asks for."""


def to_http_listener(settings: MeshSettings) -> Listener:
    """Make the listener that routes on the authority, whatever port the caller named."""
    manager = HttpConnectionManager(
        stat_prefix="outbound",
        rds=Rds(
            route_config_name=OUTBOUND_HTTP,
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
    return _listener(
        OUTBOUND_HTTP,
        settings.outbound_address,
        settings.outbound_port,
        Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)),
    )


def tcp_listener_name(address: str, port: int) -> str:
    """Name the listener of a TCP port as Istio does: `127.64.0.1_5432`."""
    return f"{address}_{port}"


def to_tcp_listener(address: str, port: int, cluster: str) -> Listener:
    """Make the listener of one TCP port, which passes connections on to the cluster."""
    proxy = TcpProxy(stat_prefix=cluster, cluster=cluster)
    return _listener(
        tcp_listener_name(address, port),
        address,
        port,
        Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)),
    )


def _listener(name: str, address: str, port: int, network_filter: Filter) -> Listener:
    return Listener(
        name=name,
        address=Address(socket_address=SocketAddress(address=address, port_value=port)),
        filter_chains=[FilterChain(filters=[network_filter])],
        traffic_direction=TrafficDirection.OUTBOUND,
    )


def pack(message: Message) -> Any:
    """Wrap a message, the same bytes each time."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed
