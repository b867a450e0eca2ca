"""An xDS server that serves what a test writes down, and Envoys that take it: for types that nothing is translated to yet."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.symbol_database import Default
from prometheus_client import CollectorRegistry

from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.grpc_aio import GrpcAioTransport
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.server import XdsServer
from isthmus.xds.server.views import ENVOY_GROUP
from isthmus.xds.store import publish
from tests.servers.envoy import LATEST, Envoy
from tests.servers.process import free_port

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
ADS: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}

# Their messages are written as JSON below; reading that takes their descriptors.
for _module in (
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.route.v3.scoped_route_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.on_demand.v3.on_demand_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.service.runtime.v3.rtds_pb2",
):
    importlib.import_module(_module)


def mk_resource(type_url: TypeUrl, name: str, document: Mapping[str, Any]) -> Resource:
    """A resource from its JSON form; `name` is put into the document's own field."""
    message: Message = Default().GetSymbol(type_url.rpartition("/")[2])()
    ParseDict(dict(document), message)
    return Resource.of(type_url, name, message)


def own_service(delta: bool) -> dict[str, Any]:
    """The config source of a type that is asked for on a stream of its own."""
    return {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "DELTA_GRPC" if delta else "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
        },
    }


def mk_listener(port: int, routes: Mapping[str, Any], *filters: Mapping[str, Any], **chain: Any) -> Resource:
    """An HTTP listener. `routes` says where the routes come from, `filters` precede the router."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "http_filters": [*filters, {"name": "router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}],
        **routes,
    }
    return mk_resource(
        TypeUrl.LISTENER,
        "listener",
        {
            "name": "listener",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}], **chain}],
        },
    )


def mk_routes(name: str, *virtual_hosts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A route configuration."""
    return {"name": name, "virtual_hosts": list(virtual_hosts), **more}


def says(text: str, domain: str = "*") -> dict[str, Any]:
    """A virtual host that answers by itself."""
    answer = {"direct_response": {"status": 200, "body": {"inline_string": text}}}
    return {"name": text, "domains": [domain], "routes": [{"match": {"prefix": "/"}, **answer}]}


def mk_cluster(name: str, **more: Any) -> Resource:
    """A cluster of no endpoints, or with more said about it."""
    return mk_resource(TypeUrl.CLUSTER, name, {"name": name, "connect_timeout": "1s", **more})


def at(name: str, port: int) -> dict[str, Any]:
    """The endpoints of a cluster: one on this machine."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}


class Scripted:
    """The server, and what is published."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._begin()
        self.port = free_port()
        """Where a test's listener listens."""
        self.envoys: list[Envoy] = []
        self._directory = directory
        self._stack = stack
        self._resources: dict[TypeUrl, dict[str, Resource]] = {}

    def _begin(self) -> None:
        self.registry = CollectorRegistry()
        self.server = XdsServer(GrpcAioTransport(), XdsMetrics(self.registry), "test", load_interval=1.0)

    async def start(self) -> None:
        self.server.start()
        self.address = await self.server.listen("127.0.0.1:0")
        self._stack.push_async_callback(lambda: self.server.stop(0))

    async def restart(self, change: Callable[[], None] = lambda: None) -> None:
        """Stop the server and start another at the same address, which knows nothing of the streams of the one before.

        `change` publishes while no server listens.
        """
        await self.server.stop(0)
        self._begin()
        self._publish()
        change()
        self.server.start()
        await self.server.listen(self.address)

    def publish(self, *resources: Resource, without: tuple[TypeUrl, str] | None = None) -> None:
        """Add or replace resources, remove one; each call is one generation."""
        for resource in resources:
            self._resources.setdefault(resource.type_url, {})[resource.name] = resource
        if without is not None:
            del self._resources[without[0]][without[1]]
        self._publish()

    def publish_whole(self, resources: Mapping[TypeUrl, Mapping[str, Resource]]) -> None:
        """Publish these resources and no others, as one generation."""
        self._resources = {t: dict(of_type) for t, of_type in resources.items()}
        self._publish()

    def _publish(self) -> None:
        copied = {t: dict(of_type) for t, of_type in self._resources.items()}
        self.server.update({ENVOY_GROUP: publish(self.server.snapshot, copied)})

    async def envoy(
        self,
        version: str = LATEST,
        *,
        delta: bool = True,
        edit: Callable[[Bootstrap], None] = lambda _: None,
        timeout: float = 20,
    ) -> Envoy:
        """An Envoy, live."""
        envoy = Envoy(self._directory, self.address, version, delta=delta, edit=edit)
        envoy.start()
        self._stack.callback(envoy.stop)
        self.envoys.append(envoy)
        await envoy.ready(timeout)
        return envoy

    async def get(self, host: str = "test", **headers: str) -> tuple[int, str]:
        """A request through the listener."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(f"http://127.0.0.1:{self.port}/", headers={"Host": host, **headers}) as answer,
        ):
            return answer.status, await answer.text()

    def metric(self, name: str, **labels: str) -> float:
        """One sample; 0 if there is none yet."""
        return self.registry.get_sample_value(name, labels) or 0.0
