"""Every supported Envoy, delta and state of the world, takes every golden case one after the other, and has what was reviewed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.grpc_aio import GrpcAioTransport
from isthmus.xds.server.metrics import XdsMetrics
from isthmus.xds.server.server import XdsServer
from isthmus.xds.server.views import ENVOY_GROUP
from isthmus.xds.store import publish
from isthmus.xds.translate import Mesh, Translation, translate
from tests.golden.meshes import CASES, decode, load, to_files
from tests.peers import ENVOYS
from tests.servers.envoy import Envoy
from tests.servers.process import free_port
from tests.wait import eventually


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    server = XdsServer(GrpcAioTransport(), XdsMetrics(CollectorRegistry()), "test")
    server.start()
    yield server
    await server.stop(0)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
@pytest.mark.parametrize("version", ENVOYS)
async def test_envoy_has_what_was_reviewed(version: str, delta: bool, server: XdsServer, tmp_path: Path) -> None:
    """Each case replaces the one before, so that everything is added, changed and removed under way; nothing is refused."""
    port = free_port()
    cases = sorted(path.name for path in CASES.iterdir())
    meshes = {case: _moved(load(case), port) for case in cases}
    server.update({ENVOY_GROUP: publish(server.snapshot, translate(meshes[cases[0]]).resources)})
    envoy = Envoy(tmp_path, await server.listen("127.0.0.1:0"), version, delta=delta)
    envoy.start()
    try:
        await envoy.ready()
        for case in cases:
            translation = translate(meshes[case])
            server.update({ENVOY_GROUP: publish(server.snapshot, translation.resources)})
            await eventually(lambda: _followed(server), f"{version} has taken {case}", 20)
            await eventually(lambda t=translation: _same(envoy, t), f"{version} has {case}", 20)  # type: ignore[misc]
            written = {p.name: p.read_text() for p in (CASES / case).iterdir() if p.name != "mesh.yaml"}
            dumped = to_files(await _dumped(envoy, translation, load(case).settings.outbound_port))
            for name in ("clusters.yaml", "listeners.yaml", "routes.yaml"):
                assert dumped.get(name) == written.get(name), f"{case}: {name}"
        assert await envoy.rejected() == {}
    finally:
        envoy.stop()


def _moved(mesh: Mesh, port: int) -> Mesh:
    settings = type(mesh.settings)(mesh.settings.domain, mesh.settings.outbound_address, port)
    return Mesh(mesh.catalog, settings, mesh.virtual_ips)


def _followed(server: XdsServer) -> bool:
    (proxy,) = server.proxies()
    return all(t.state in ("SYNCED", "NOT SENT") for t in proxy.types)


async def _same(envoy: Envoy, translation: Translation) -> bool:
    """Whether Envoy's active resources are those of the translation, by name, and its endpoints one by one."""
    dump = await _config_dump(envoy)
    for type_url in (TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE):
        assert dump[type_url].keys() == translation.resources[type_url].keys(), type_url.short
    for name, sent in translation.resources[TypeUrl.ENDPOINT].items():
        message = dump[TypeUrl.ENDPOINT].get(name)
        assert isinstance(message, ClusterLoadAssignment), name
        assert _endpoints(message) == _endpoints(decode(sent, ClusterLoadAssignment)), name
    return True


def _endpoints(assignment: ClusterLoadAssignment) -> list[tuple[str, int, int]]:
    """Address, health and weight, as far as the dump tells: it has unknown health as healthy, and draining as unhealthy."""
    return sorted(
        (
            str(e.endpoint.address).replace("\n", " "),
            {0: 1, 3: 2}.get(e.health_status, e.health_status),
            e.load_balancing_weight.value or 1,
        )
        for locality in assignment.endpoints
        for e in locality.lb_endpoints
    )


async def _dumped(envoy: Envoy, translation: Translation, written_port: int) -> Translation:
    """What Envoy dumps, in the form of a translation, with the outbound port of the golden files instead of the test's."""
    dump = await _config_dump(envoy)
    for message in dump[TypeUrl.LISTENER].values():
        assert isinstance(message, Listener)
        if message.address.socket_address.port_value == translation.mesh.settings.outbound_port:
            message.address.socket_address.port_value = written_port
    resources = {
        type_url: {name: Resource.of(type_url, name, message) for name, message in dump[type_url].items()}
        for type_url in (TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE)
    }
    resources[TypeUrl.ENDPOINT] = dict(translation.resources[TypeUrl.ENDPOINT])
    return msgspec.structs.replace(translation, resources=resources)


async def _config_dump(envoy: Envoy) -> dict[TypeUrl, dict[str, Message]]:
    """Dynamic resources by type and name, as messages."""
    document: dict[str, Any] = json.loads(await envoy.admin("/config_dump?include_eds"))
    found: dict[TypeUrl, dict[str, Message]] = {t: {} for t in TypeUrl}
    for config in document["configs"]:
        for item in config.get("dynamic_active_clusters", ()):
            _add(found[TypeUrl.CLUSTER], item["cluster"], Cluster())
        for item in config.get("dynamic_listeners", ()):
            if "active_state" in item:
                _add(found[TypeUrl.LISTENER], item["active_state"]["listener"], Listener())
        for item in config.get("dynamic_route_configs", ()):
            _add(found[TypeUrl.ROUTE], item["route_config"], RouteConfiguration())
        for item in config.get("dynamic_endpoint_configs", ()):
            _add(found[TypeUrl.ENDPOINT], item["endpoint_config"], ClusterLoadAssignment())
    return found


def _add(found: dict[str, Message], value: dict[str, Any], message: Message) -> None:
    value.pop("@type", None)
    ParseDict(value, message)
    name: str = value.get("cluster_name") or value["name"]
    found[name] = message
