"""Clusters: one per service and logical port."""

from __future__ import annotations

import datetime as dt

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection as OutlierDetectionMessage
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import UInt32Value

from isthmus.registry.model import OutlierDetection, Port, Protocol, Service

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_Explicit = HttpProtocolOptions.ExplicitHttpConfig
_UNLIMITED = UInt32Value(value=2**32 - 1)


def _packed(explicit: HttpProtocolOptions.ExplicitHttpConfig) -> Any:
    packed = Any()
    packed.Pack(HttpProtocolOptions(explicit_http_config=explicit), deterministic=True)
    return packed


_HTTP1 = _packed(_Explicit(http_protocol_options=Http1ProtocolOptions()))
_HTTP2 = _packed(_Explicit(http2_protocol_options=Http2ProtocolOptions()))

# What all clusters share.
#
# - No panic: by default Envoy sends to *all* endpoints once fewer than half are healthy. The registry's word on health is
#   final here: an instance whose check is critical, or that is in maintenance, gets no request even if it is the last one.
# - No merge window: by default Envoy acknowledges a change of health or weight at once and acts on it up to a second later.
# - No circuit breaking unless somebody asks for it, as in Istio: Envoy's default of 1,024 connections surprises people.
_COMMON = Cluster(
    connect_timeout=dt.timedelta(seconds=10),
    lb_policy=Cluster.ROUND_ROBIN,
    common_lb_config=Cluster.CommonLbConfig(
        healthy_panic_threshold=Percent(value=0), update_merge_window=dt.timedelta(0)
    ),
    ignore_health_on_host_removal=True,
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
_EDS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def to_cluster(name: str, service: Service, port: Port, inline: ClusterLoadAssignment | None = None) -> Cluster:
    """Make the cluster of a service's port. Its endpoints come over EDS, or are `inline` ones that Envoy resolves by DNS."""
    cluster = Cluster()
    cluster.CopyFrom(_COMMON)
    cluster.name = name
    if inline is None:
        cluster.type = Cluster.EDS
        cluster.eds_cluster_config.service_name = name
        cluster.eds_cluster_config.eds_config.CopyFrom(_EDS)
    else:
        cluster.type = Cluster.STRICT_DNS
        cluster.dns_lookup_family = Cluster.V4_PREFERRED
        cluster.load_assignment.CopyFrom(inline)
    if service.outlier_detection is not None:
        cluster.outlier_detection.CopyFrom(_to_outlier_detection(service.outlier_detection))
    if port.protocol.is_http2:
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(_HTTP2)
    elif port.protocol in (Protocol.HTTP, Protocol.GRPC_WEB):
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(_HTTP1)
    own = cluster.metadata.filter_metadata["isthmus"].fields
    own["service"].string_value = service.key.name
    own["namespace"].string_value = service.key.namespace
    own["port"].string_value = port.name
    return cluster


def _to_outlier_detection(rules: OutlierDetection) -> OutlierDetectionMessage:
    """Only what is counted in a row: Envoy's statistical ejections judge instances by each other, which nobody asked for."""
    five_xx = rules.consecutive_5xx
    return OutlierDetectionMessage(
        consecutive_gateway_failure=UInt32Value(value=rules.consecutive_failures),
        enforcing_consecutive_gateway_failure=UInt32Value(value=100),
        consecutive_5xx=UInt32Value(value=five_xx) if five_xx else None,
        enforcing_consecutive_5xx=UInt32Value(value=100 if five_xx else 0),
        enforcing_success_rate=UInt32Value(value=0),
        interval=dt.timedelta(seconds=rules.interval),
        base_ejection_time=dt.timedelta(seconds=rules.ejection_time),
        # Envoy refuses a longest ejection that is shorter than the first one; its own default is 300 s.
        max_ejection_time=dt.timedelta(seconds=max(300.0, rules.ejection_time)),
        max_ejection_percent=UInt32Value(value=rules.max_percent),
    )
