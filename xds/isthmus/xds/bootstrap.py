"""The bootstrap of an Envoy that takes everything else from the bridge, over one aggregated stream."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from collections.abc import Mapping, Sequence

import msgspec
import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.core.v3.address_pb2 import Address, SocketAddress, TcpKeepalive
from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.core.v3.base_pb2 import DataSource, Node, RetryPolicy, TransportSocket
from envoy.config.core.v3.base_pb2 import Locality as LocalityMessage
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
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, SubjectAltNameMatcher
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.registry.model import Locality

XDS_CLUSTER = "xds-grpc"
"""The static cluster that leads to the bridge, named as in Istio's proxies."""


class ClientTLS(msgspec.Struct, frozen=True):
    """Files on the client's machine: the authorities that it trusts, and its own certificate and key if the bridge wants one."""

    ca_file: str
    cert_file: str = ""
    key_file: str = ""


def to_bootstrap(
    node_id: str,
    node_cluster: str,
    xds_host: str,
    xds_port: int,
    *,
    replicas: Sequence[tuple[str, int]] = (),
    admin_address: str = "127.0.0.1",
    admin_port: int = 15000,
    locality: Locality | None = None,
    metadata: Mapping[str, object] | None = None,
    delta: bool = True,
    initial_fetch_timeout: float = 0,
    connect_timeout: float = 1,
    tls: ClientTLS | None = None,
) -> Bootstrap:
    """Make a bootstrap. `metadata` holds JSON values; `delta` chooses between the two forms of the protocol.

    `replicas` are hosts and ports of other bridges that will do as well. With `tls` the bridge is reached over TLS, and its
    certificate has to name the host by which it is reached.

    Envoy waits for its first clusters and listeners `initial_fetch_timeout` seconds; 0, as long as it takes, so that it never
    reports itself ready with nothing.

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
            cds_config=_aggregated(initial_fetch_timeout),
            lds_config=_aggregated(initial_fetch_timeout),
        ),
    )
    bridges = ((xds_host, xds_port), *replicas)
    cluster = _xds_cluster(bridges, connect_timeout)
    if tls is not None:
        cluster.transport_socket.CopyFrom(_tls_socket([host for host, _ in bridges], tls))
    bootstrap.static_resources.clusters.append(cluster)
    return bootstrap


def to_yaml(bootstrap: Bootstrap) -> str:
    """For `envoy -c`, and for people."""
    text: str = yaml.safe_dump(json.loads(to_json(bootstrap)), sort_keys=False)
    return text


def to_json(bootstrap: Bootstrap) -> str:
    """For `envoy -c` or `envoy --config-yaml`."""
    text: str = MessageToJson(bootstrap, preserving_proto_field_name=True)
    return text


def _aggregated(initial_fetch_timeout: float) -> ConfigSource:
    return ConfigSource(
        ads=AggregatedConfigSource(),
        resource_api_version=ApiVersion.V3,
        initial_fetch_timeout=dt.timedelta(seconds=initial_fetch_timeout),
    )


def _xds_service() -> GrpcService.EnvoyGrpc:
    # Envoy's default lets the pause between two attempts grow to 30 s: too long after a bridge was restarted.
    pause = BackoffStrategy(base_interval=dt.timedelta(milliseconds=500), max_interval=dt.timedelta(seconds=5))
    return GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER, retry_policy=RetryPolicy(retry_back_off=pause))


def _xds_cluster(bridges: Sequence[tuple[str, int]], connect_timeout: float) -> Cluster:
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
        type=Cluster.STATIC if all(_is_ip(host) for host, _ in bridges) else Cluster.STRICT_DNS,
        connect_timeout=dt.timedelta(seconds=connect_timeout),
        load_assignment=ClusterLoadAssignment(
            cluster_name=XDS_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=_socket(*bridge))) for bridge in bridges]
                )
            ],
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


def _tls_socket(hosts: Sequence[str], tls: ClientTLS) -> TransportSocket:
    common = CommonTlsContext(
        alpn_protocols=["h2"],
        validation_context=CertificateValidationContext(
            trusted_ca=DataSource(filename=tls.ca_file),
            match_typed_subject_alt_names=[_alt_name(host) for host in hosts],
        ),
    )
    if tls.cert_file:
        common.tls_certificates.add(
            certificate_chain=DataSource(filename=tls.cert_file), private_key=DataSource(filename=tls.key_file)
        )
    config = Any()
    config.Pack(UpstreamTlsContext(common_tls_context=common, sni="" if _is_ip(hosts[0]) else hosts[0]))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=config)


def _alt_name(host: str) -> SubjectAltNameMatcher:
    kind = SubjectAltNameMatcher.SanType.IP_ADDRESS if _is_ip(host) else SubjectAltNameMatcher.SanType.DNS
    return SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=host))


def _socket(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
