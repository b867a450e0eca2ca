"""Envoy's listeners and clusters for calls that come to this machine's services. Pure.

They stand in the bootstrap, so that a service can be called whatever becomes of the bridge. Names are Istio's: the listener
`inbound_9080` leads to the cluster `inbound|9080||`, and so to where the application listens.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import RetryPolicy, Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from isthmus.agent.config import AgentConfig, PortConfig, ServiceConfig, Target
from isthmus.registry.model import Protocol
from isthmus.xds.names import ClusterName

_UNLIMITED = UInt32Value(value=2**32 - 1)


def inbound_ports(config: AgentConfig) -> Iterator[tuple[ServiceConfig, PortConfig]]:
    """The ports whose calls go through the proxy."""
    for service in config.services:
        for port in service.ports:
            if port.inbound_port:
                yield service, port


def to_inbound_listeners(config: AgentConfig, address: str) -> Iterator[Listener]:
    """Make the listener of each port, where traffic is not intercepted."""
    for service, port in inbound_ports(config):
        number = port.inbound_port
        yield Listener(
            name=f"inbound_{number}",
            address=socket_address(config.inbound_address or address, number),
            filter_chains=[FilterChain(filters=[_filter(service, port)])],
            traffic_direction=TrafficDirection.INBOUND,
        )


def to_inbound_chains(config: AgentConfig) -> Iterator[FilterChain]:
    """Make what each port is for the one listener that gets everything captured.

    Listeners of their own would share their addresses with those of other services on the same port, which the bridge sends.
    """
    for service, port in inbound_ports(config):
        number = port.inbound_port
        match = FilterChainMatch(destination_port=UInt32Value(value=number))
        if config.interception_mode == "TPROXY":
            # What comes by IPv6 is passed through: a caller's IPv6 address cannot call the target's IPv4 one.
            match.prefix_ranges.add(address_prefix="0.0.0.0").prefix_len.value = 0
        yield FilterChain(name=f"inbound_{number}", filter_chain_match=match, filters=[_filter(service, port)])


def to_inbound_clusters(config: AgentConfig, address: str) -> Iterator[Cluster]:
    """Make the cluster of each port."""
    for _, port in inbound_ports(config):
        target = port.at()
        if config.interception_mode == "TPROXY" and not port.target:
            # The application sees the caller's address, and answers to it: that does not work across 127.0.0.1.
            target = Target(address, port.port)
        cluster = to_static_cluster(cluster_name(port), to_address(target), config.connect_timeout)
        if (
            config.interception_mode == "REDIRECT"
            and target.port
            and not ipaddress.ip_address(target.address).is_loopback
        ):
            not_captured_again(cluster)
        if port.protocol_spoken.is_http2:
            options = HttpProtocolOptions(
                explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
                    http2_protocol_options=Http2ProtocolOptions(allow_connect=True)
                )
            )
            cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].CopyFrom(
                pack(options)
            )
        yield cluster


def not_captured_again(cluster: Cluster) -> None:
    """Let a cluster reach this machine's own address: interception leaves alone what comes from 127.0.0.6, as Istio's does.

    IPv6 has one loopback address only, and what the proxy sends to this machine by IPv6 is not captured.
    """
    cluster.upstream_bind_config.source_address.CopyFrom(SocketAddress(address="127.0.0.6", port_value=0))
    cluster.upstream_bind_config.extra_source_addresses.add().address.CopyFrom(
        SocketAddress(address="::", port_value=0)
    )


def to_static_cluster(name: str, address: Address, connect_timeout: float) -> Cluster:
    """Make a cluster of one place on this machine; how much it can take is its own affair."""
    return Cluster(
        name=name,
        type=Cluster.STATIC,
        connect_timeout=dt.timedelta(seconds=connect_timeout),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
        ),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakers.Thresholds(
                    max_connections=_UNLIMITED,
                    max_pending_requests=_UNLIMITED,
                    max_requests=_UNLIMITED,
                    max_retries=_UNLIMITED,
                )
            ]
        ),
    )


def cluster_name(port: PortConfig) -> str:
    """Istio's name: `inbound|9080||`."""
    return str(ClusterName("inbound", port.inbound_port, "", ""))


def to_address(target: Target) -> Address:
    """Envoy's form of where an application listens."""
    return socket_address(target.address, target.port) if target.port else Address(pipe=Pipe(path=target.address))


def socket_address(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def tcp_filter(cluster: str) -> Filter:
    """Make the filter that passes connections on to a cluster."""
    proxy = TcpProxy(stat_prefix=cluster, cluster=cluster)
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))


def _filter(service: ServiceConfig, port: PortConfig) -> Filter:
    if not port.protocol_spoken.is_http:
        return tcp_filter(cluster_name(port))
    return http_filter(cluster_name(port), service.name, port.protocol_spoken)


def http_filter(cluster: str, host: str, protocol: Protocol) -> Filter:
    """Make the filter that passes all requests on to a cluster, as they are; `host` is what HTTP/1.0 does not say."""
    route = Route(
        match=RouteMatch(prefix="/"),
        route=RouteAction(
            cluster=cluster,
            timeout=dt.timedelta(0),
            # A connection that the application closed just when a request was about to be sent: nothing was sent.
            retry_policy=RetryPolicy(retry_on="reset-before-request", num_retries=UInt32Value(value=1)),
        ),
    )
    manager = HttpConnectionManager(
        stat_prefix=cluster,
        route_config=RouteConfiguration(
            name=cluster, virtual_hosts=[VirtualHost(name=cluster, domains=["*"], routes=[route])]
        ),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))],
        http_protocol_options=Http1ProtocolOptions(accept_http_10=True, default_host_for_http_10=host),
        # The caller's proxy has said who calls; it is not said again.
        use_remote_address=BoolValue(value=False),
        skip_xff_append=True,
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        generate_request_id=BoolValue(value=True),
        stream_idle_timeout=dt.timedelta(0),
    )
    if protocol in (Protocol.HTTP, Protocol.HTTP2):
        manager.upgrade_configs.append(HttpConnectionManager.UpgradeConfig(upgrade_type="websocket"))
        manager.http2_protocol_options.allow_connect = True
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))


def pack(message: Message) -> Any:
    """Wrap a message, the same bytes each time."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed
