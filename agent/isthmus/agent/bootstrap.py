"""The bootstrap of an agent's Envoy: inbound by itself, outbound from the bridge. Pure."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe
from envoy.config.core.v3.base_pb2 import DataSource, TrafficDirection
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.original_src.v3.original_src_pb2 import OriginalSrc
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.network.dns_resolver.cares.v3.cares_dns_resolver_pb2 import CaresDnsResolverConfig
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.agent.config import AgentConfig, ServiceConfig
from isthmus.agent.dns.config import Address as DnsAddress
from isthmus.agent.inbound import (
    not_captured_again,
    pack,
    socket_address,
    tcp_filter,
    to_inbound_chains,
    to_inbound_clusters,
    to_inbound_listeners,
    to_static_cluster,
)
from isthmus.agent.intercept.config import Intercept
from isthmus.registry.settings import split_address
from isthmus.xds.bootstrap import ClientTLS, to_bootstrap, to_json
from isthmus.xds.translate.listeners import to_http_listener
from isthmus.xds.translate.mesh import MeshSettings

INITIAL_FETCH_SECONDS = 7.0
"""How long an Envoy that starts without a bridge waits for clusters, and then for listeners or routes, before it opens its
inbound listeners all the same."""

PASSTHROUGH, BLACK_HOLE, INBOUND_PASSTHROUGH = "PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster"
_PROMETHEUS = "prometheus_stats"


def registration_id(config: AgentConfig, service: ServiceConfig) -> str:
    """The id under which an instance is registered: `reviews-vm-1`; with the namespace where it is not the default one."""
    return "-".join((service.name, *([service.namespace] if service.namespace != "default" else []), config.node))


def admin_socket(config: AgentConfig) -> str:
    """The path of the admin page's socket; empty when it has a port."""
    return "" if config.proxy_admin_port else f"{config.config_path}/admin.sock"


def to_agent_bootstrap(
    config: AgentConfig, address: str, *, ipv6: bool, version: str, resolvers: Sequence[DnsAddress] = ()
) -> Bootstrap:
    """Make the bootstrap. `address` is this machine's; `ipv6` says whether it has IPv6; `version` is the agent's.

    `resolvers` are the DNS servers that Envoy asks; none: those of the machine.
    """
    (host, port), *replicas = (split_address(bridge, ["discoveryAddress"]) for bridge in config.bridges)
    tls = config.discovery_tls
    bootstrap = to_bootstrap(
        config.node,
        config.service_cluster,
        host,
        port,
        replicas=replicas,
        admin_port=config.proxy_admin_port,
        locality=config.locality_levels,
        metadata=_metadata(config, version),
        initial_fetch_timeout=INITIAL_FETCH_SECONDS,
        connect_timeout=config.connect_timeout,
        tls=ClientTLS(tls.ca_file, tls.cert_file, tls.key_file) if tls else None,
    )
    admin = Address(pipe=Pipe(path=admin_socket(config), mode=0o600))
    if not config.proxy_admin_port:
        bootstrap.admin.address.CopyFrom(admin)
    if resolvers:
        servers = [socket_address(host, number) for host, number in resolvers]
        bootstrap.typed_dns_resolver_config.CopyFrom(
            TypedExtensionConfig(
                name="envoy.network.dns_resolver.cares",
                typed_config=pack(CaresDnsResolverConfig(resolvers=servers)),
            )
        )
    static = bootstrap.static_resources
    static.clusters.extend(to_inbound_clusters(config, address))
    static.clusters.append(to_static_cluster(_PROMETHEUS, bootstrap.admin.address, config.connect_timeout))
    if config.interception_mode == "NONE":
        static.listeners.extend(to_inbound_listeners(config, address))
    if config.envoy_prometheus_port:
        static.listeners.append(_prometheus_listener(config, address))
    if config.outbound_mode == "EXPLICIT":
        at, number = split_address(config.outbound.listen, ["outbound", "listen"])
        static.listeners.append(_explicit_listener(at, number))
    if config.outbound_mode in ("EXPLICIT", "NONE"):
        bootstrap.dynamic_resources.ClearField("lds_config")
    if config.outbound_mode == "NONE":
        bootstrap.dynamic_resources.ClearField("cds_config")
    if config.interception_mode != "NONE":
        static.clusters.extend(_passthrough_clusters(config))
        static.listeners.extend(_virtual_listeners(config, ipv6))
    return bootstrap


def to_text(bootstrap: Bootstrap) -> str:
    """Make the text of a bootstrap: the same one each time, though protobuf's mappings have no order."""
    return json.dumps(json.loads(to_json(bootstrap)), sort_keys=True, indent=1)


def _explicit_listener(address: str, port: int) -> Listener:
    """Make the listener that routes all of HTTP by its host names; what they are comes from the bridge."""
    listener = to_http_listener(MeshSettings(outbound_address=address, outbound_port=port))
    (http,) = listener.filter_chains[0].filters
    manager = HttpConnectionManager()
    http.typed_config.Unpack(manager)
    manager.rds.config_source.initial_fetch_timeout.FromTimedelta(dt.timedelta(seconds=INITIAL_FETCH_SECONDS))
    http.typed_config.CopyFrom(pack(manager))
    return listener


def _metadata(config: AgentConfig, version: str) -> Mapping[str, object]:
    return {
        "ISTHMUS_AGENT": version,
        "OUTBOUND": config.outbound_mode,
        "INTERCEPTION_MODE": config.interception_mode,
        "REGISTRATIONS": [registration_id(config, service) for service in config.services],
        "SERVICES": [f"{service.name}.{service.namespace}" for service in config.services],
    }


def _prometheus_listener(config: AgentConfig, address: str) -> Listener:
    """Make the listener for Envoy's own statistics, and nothing else of its admin page."""
    routes = [
        Route(match=RouteMatch(path="/stats/prometheus"), route=RouteAction(cluster=_PROMETHEUS)),
        Route(
            match=RouteMatch(prefix="/"),
            direct_response=DirectResponseAction(
                status=404, body=DataSource(inline_string="There is /stats/prometheus here.\n")
            ),
        ),
    ]
    manager = HttpConnectionManager(
        stat_prefix="stats",
        route_config=RouteConfiguration(
            name="stats", virtual_hosts=[VirtualHost(name="stats", domains=["*"], routes=routes)]
        ),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=pack(Router()))],
    )
    http = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    own = [a for a in (config.inbound_address or address,) if a not in ("127.0.0.1", "0.0.0.0")]
    return Listener(
        name="envoy_prometheus",
        address=socket_address(
            "0.0.0.0" if config.inbound_address == "0.0.0.0" else "127.0.0.1", config.envoy_prometheus_port
        ),
        additional_addresses=[AdditionalAddress(address=socket_address(a, config.envoy_prometheus_port)) for a in own],
        filter_chains=[FilterChain(filters=[http])],
        traffic_direction=TrafficDirection.INBOUND,
    )


def _passthrough_clusters(config: AgentConfig) -> Iterator[Cluster]:
    """Make the clusters for what is no service's: to where it was going, or, for what would go round in a circle, nowhere."""
    for name in (PASSTHROUGH, INBOUND_PASSTHROUGH):
        cluster = to_static_cluster(name, Address(), config.connect_timeout)
        cluster.ClearField("load_assignment")
        cluster.type = Cluster.ORIGINAL_DST
        cluster.lb_policy = Cluster.CLUSTER_PROVIDED
        if name == INBOUND_PASSTHROUGH and config.interception_mode == "REDIRECT":
            not_captured_again(cluster)
        yield cluster
    black_hole = to_static_cluster(BLACK_HOLE, Address(), config.connect_timeout)
    black_hole.ClearField("load_assignment")
    yield black_hole


def _virtual_listeners(config: AgentConfig, ipv6: bool) -> Iterator[Listener]:
    """Make the listeners that interception redirects to: one hands each connection to the listener of where it was going, the
    other has a filter chain for each port of this machine's services.
    """
    section = config.intercept or Intercept()
    ways = (
        ("virtualOutbound", section.envoy_port, PASSTHROUGH, TrafficDirection.OUTBOUND),
        ("virtualInbound", section.inbound_capture_port, INBOUND_PASSTHROUGH, TrafficDirection.INBOUND),
    )
    for name, number, cluster, direction in ways:
        circle = FilterChain(
            name="circle",
            filter_chain_match=FilterChainMatch(destination_port=UInt32Value(value=number)),
            filters=[tcp_filter(BLACK_HOLE)],
        )
        listener = Listener(
            name=name,
            address=socket_address("0.0.0.0", number),
            filter_chains=[circle],
            default_filter_chain=FilterChain(filters=[tcp_filter(cluster)]),
            traffic_direction=direction,
        )
        if direction is TrafficDirection.OUTBOUND:
            listener.use_original_dst.value = True
        else:
            listener.filter_chains.extend(to_inbound_chains(config))
            listener.listener_filters.append(
                ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=pack(OriginalDst()))
            )
        if ipv6:
            listener.additional_addresses.add().address.CopyFrom(socket_address("::", number))
        if config.interception_mode == "TPROXY" and direction is TrafficDirection.INBOUND:
            listener.transparent.value = True
            listener.listener_filters.append(
                ListenerFilter(
                    name="envoy.filters.listener.original_src",
                    typed_config=pack(OriginalSrc(mark=section.istio_inbound_tproxy_mark)),
                )
            )
        yield listener
