"""Which gRPC methods are served, and what each of them speaks. Envoy's documentation, "xDS API endpoints"."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from isthmus.xds.resource import TypeUrl


class Discovery(msgspec.Struct, frozen=True):
    """A method of the xDS protocol. `type_url` is the one type that it serves; None: all of them (aggregated, ADS)."""

    delta: bool
    type_url: TypeUrl | None = None


class Other(enum.Enum):
    """A method that is not discovery."""

    CLIENT_STATUS_ONCE = "FetchClientStatus"
    CLIENT_STATUS = "StreamClientStatus"
    LOAD_REPORTS = "StreamLoadStats"


_AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
SOTW_PATH = f"{_AGGREGATED}StreamAggregatedResources"
DELTA_PATH = f"{_AGGREGATED}DeltaAggregatedResources"
CLIENT_STATUS = "/envoy.service.status.v3.ClientStatusDiscoveryService/"
LOAD_REPORTS_PATH = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"

_OWN = {
    TypeUrl.LISTENER: "listener.v3.ListenerDiscoveryService/{}Listeners",
    TypeUrl.ROUTE: "route.v3.RouteDiscoveryService/{}Routes",
    TypeUrl.SCOPED_ROUTE: "route.v3.ScopedRoutesDiscoveryService/{}ScopedRoutes",
    TypeUrl.VIRTUAL_HOST: "route.v3.VirtualHostDiscoveryService/{}VirtualHosts",
    TypeUrl.CLUSTER: "cluster.v3.ClusterDiscoveryService/{}Clusters",
    TypeUrl.ENDPOINT: "endpoint.v3.EndpointDiscoveryService/{}Endpoints",
    TypeUrl.SECRET: "secret.v3.SecretDiscoveryService/{}Secrets",
    TypeUrl.RUNTIME: "runtime.v3.RuntimeDiscoveryService/{}Runtime",
    TypeUrl.EXTENSION: "extension.v3.ExtensionConfigDiscoveryService/{}ExtensionConfigs",
}


def path_of(type_url: TypeUrl, *, delta: bool) -> str:
    """The path of a type's own service."""
    return "/envoy.service." + _OWN[type_url].format("Delta" if delta else "Stream")


METHODS: Mapping[str, Discovery | Other] = {
    SOTW_PATH: Discovery(delta=False),
    DELTA_PATH: Discovery(delta=True),
    # Virtual hosts are known in the delta variant alone: there is no StreamVirtualHosts.
    **{path_of(t, delta=False): Discovery(delta=False, type_url=t) for t in _OWN if t is not TypeUrl.VIRTUAL_HOST},
    **{path_of(t, delta=True): Discovery(delta=True, type_url=t) for t in _OWN},
    **{CLIENT_STATUS + m.value: m for m in (Other.CLIENT_STATUS_ONCE, Other.CLIENT_STATUS)},
    LOAD_REPORTS_PATH: Other.LOAD_REPORTS,
}
"""All that is served, by path."""
