"""Routes of the outbound HTTP listener: a virtual host per service and HTTP port, chosen by the authority.

The route configuration is put together from virtual hosts that are encoded once each: what one service changes costs the
encoding of its own, and a copy of the others' bytes. In protobuf, the encoding of a message is the concatenation of the
encodings of its fields (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from isthmus.xds.translate.listeners import OUTBOUND_CAPTURED, OUTBOUND_HTTP, PASSTHROUGH


def _default_retries() -> RetryPolicy:
    """Istio's default: twice, on failures that mean the request was not handled, at an endpoint not yet tried."""
    predicate = Any()
    predicate.Pack(PreviousHostsPredicate())
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,unavailable,cancelled,reset-before-request,retriable-status-codes",
        retriable_status_codes=[503],
        num_retries=UInt32Value(value=2),
        retry_host_predicate=[
            RetryPolicy.RetryHostPredicate(name="envoy.retry_host_predicates.previous_hosts", typed_config=predicate)
        ],
        host_selection_retry_max_attempts=5,
    )


_RETRIES = _default_retries()


def to_virtual_host(name: str, domains: Iterable[str], cluster: str) -> VirtualHost:
    """Send everything for the domains to the cluster, without a timeout (Istio's default)."""
    action = RouteAction(cluster=cluster, timeout=dt.timedelta(0), retry_policy=_RETRIES)
    return VirtualHost(name=name, domains=list(domains), routes=[Route(match=RouteMatch(prefix="/"), route=action)])


def encode_virtual_host(host: VirtualHost) -> bytes:
    """Encode one virtual host as a field of the route configuration."""
    return RouteConfiguration(virtual_hosts=[host]).SerializeToString(deterministic=True)


def encode_route_configuration(virtual_hosts: Iterable[bytes]) -> bytes:
    """Put the route configuration together from encoded virtual hosts; a clear 502 answers every other authority."""
    return b"".join((_head(OUTBOUND_HTTP), *virtual_hosts, _BLOCK))


def encode_captured_routes(virtual_hosts: Iterable[bytes]) -> bytes:
    """Put together the one of redirected connections, in which every other authority leads to where it was going."""
    return b"".join((_head(OUTBOUND_CAPTURED), *virtual_hosts, _PASS))


def _head(name: str) -> bytes:
    # Every route's cluster comes over CDS before it; an Envoy that missed one shall not refuse all the others.
    head = RouteConfiguration(name=name, validate_clusters=BoolValue(value=False))
    return head.SerializeToString(deterministic=True)


_BLOCK = encode_virtual_host(
    VirtualHost(
        name="block_all",
        domains=["*"],
        routes=[
            Route(
                match=RouteMatch(prefix="/"),
                direct_response=DirectResponseAction(
                    status=502,
                    body=DataSource(inline_string="No service of this mesh answers to the requested host name.\n"),
                ),
            )
        ],
    )
)
_PASS = encode_virtual_host(
    VirtualHost(
        name="allow_any",
        domains=["*"],
        routes=[Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=PASSTHROUGH, timeout=dt.timedelta(0)))],
    )
)
