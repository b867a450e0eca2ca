"""The bootstrap of an Envoy that takes everything else from the bridge, over one aggregated stream."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from collections.abc import Mapping

import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.core.v3.address_pb2 import Address, SocketAddress, TcpKeepalive
from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.core.v3.base_pb2 import Locality as LocalityMessage
from envoy.config.core.v3.base_pb2 import Node, RetryPolicy
from envoy.config.core.v3.config_source_pb2 import (
    AggregatedConfigSource,
    ApiConfigSource,
    ApiVersion,
    ConfigSource,
)
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.registry.model import Locality

XDS_CLUSTER = "xds-grpc"
"""The static cluster that leads to the bridge, named as in Istio's proxies."""


def to_bootstrap(
    node_id: str,
    node_cluster: str,
    xds_host: str,
    xds_port: int,
    *,
    admin_address: str = "127.0.0.1",
    admin_port: int = 15000,
    locality: Locality | None = None,
    metadata: Mapping[str, object] | None = None,
    delta: bool = True,
) -> Bootstrap:
    """Make a bootstrap. `metadata` holds JSON values; `delta` chooses between the two forms of the protocol.

    Envoy waits for its first clusters and listeners as long as it takes, so that it never reports itself ready with nothing.

    Raises:
        google.protobuf.json_format.ParseError: metadata is not JSON.

    """
    node = Node(id=node_id, cluster=node_cluster)
    if metadata:
        ParseDict(dict(metadata), node.metadata)
    if locality is not None:
        node.locality.CopyFrom(LocalityMessage(region=locality.region, zone=locality.zone, sub_zone=locality.sub_zone))
    bootstrap = Bootstrap(
        node=node,
        admin=Admin(address=_socket(admin_address, admin_port)),
        dynamic_resources=Bootstrap.DynamicResources(
            ads_config=ApiConfigSource(
                api_type=ApiConfigSource.DELTA_GRPC if delta else ApiConfigSource.GRPC,
                transport_api_version=ApiVersion.V3,
                set_node_on_first_message_only=True,
                grpc_services=[GrpcService(envoy_grpc=_xds_service())],
            ),
            cds_config=_aggregated(),
            lds_config=_aggregated(),
        ),
    )
    bootstrap.static_resources.clusters.append(_xds_cluster(xds_host, xds_port))
    return bootstrap


def to_yaml(bootstrap: Bootstrap) -> str:
    """For `envoy -c`, and for people."""
    text: str = yaml.safe_dump(json.loads(to_json(bootstrap)), sort_keys=False)
    return text


def to_json(bootstrap: Bootstrap) -> str:
    """For `envoy -c` or `envoy --config-yaml`."""
    text: str = MessageToJson(bootstrap, preserving_proto_field_name=True)
    return text


def _aggregated() -> ConfigSource:
    return ConfigSource(
        ads=AggregatedConfigSource(),
        resource_api_version=ApiVersion.V3,
        initial_fetch_timeout=dt.timedelta(0),
    )


def _xds_service() -> GrpcService.EnvoyGrpc:
    # Envoy's default lets the pause between two attempts grow to 30 s: too long after a bridge was restarted.
    pause = BackoffStrategy(base_interval=dt.timedelta(milliseconds=500), max_interval=dt.timedelta(seconds=5))
    return GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER, retry_policy=RetryPolicy(retry_back_off=pause))


def _xds_cluster(host: str, port: int) -> Cluster:
    http2 = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                connection_keepalive=KeepaliveSettings(
                    interval=dt.timedelta(seconds=30), timeout=dt.timedelta(seconds=5)
                )
            )
        )
    )
    options = Any()
    options.Pack(http2)
    return Cluster(
        name=XDS_CLUSTER,
        type=Cluster.STATIC if _is_ip(host) else Cluster.STRICT_DNS,
        connect_timeout=dt.timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=XDS_CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=_socket(host, port)))])],
        ),
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        # A bridge that vanished without a word is noticed by the kernel within a minute, even when Envoy has nothing to say.
        upstream_connection_options=UpstreamConnectionOptions(
            tcp_keepalive=TcpKeepalive(
                keepalive_time=UInt32Value(value=30),
                keepalive_interval=UInt32Value(value=10),
                keepalive_probes=UInt32Value(value=3),
            )
        ),
    )


def _socket(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
