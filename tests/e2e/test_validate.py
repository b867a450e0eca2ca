"""Every supported Envoy accepts what is generated, without starting up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import to_bootstrap, to_json, to_yaml
from isthmus.xds.resource import TypeUrl
from isthmus.xds.translate import Translation, translate
from isthmus.xds.translate.listeners import OUTBOUND_HTTP
from tests.golden.meshes import CASES, decode, load
from tests.peers import ENVOYS
from tests.servers.peers import peer_binary


def validate(version: str, config: str, file: Path) -> None:
    file.write_text(config)
    done = subprocess.run(
        [peer_binary("envoy", version), "--mode", "validate", "--log-level", "warning", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def inlined(translation: Translation) -> Bootstrap:
    """A bootstrap that has all resources in itself; an EDS cluster twice, the second time with its endpoints."""
    bootstrap = to_bootstrap("validate", "validate", "127.0.0.1", 15010)
    resources = translation.resources
    for resource in resources[TypeUrl.CLUSTER].values():
        bootstrap.static_resources.clusters.append(decode(resource, Cluster))
    for resource in resources[TypeUrl.ENDPOINT].values():
        cluster = decode(resources[TypeUrl.CLUSTER][resource.name], Cluster)
        cluster.name += "|static"
        cluster.ClearField("eds_cluster_config")
        cluster.type = Cluster.STATIC
        cluster.load_assignment.CopyFrom(decode(resource, ClusterLoadAssignment))
        bootstrap.static_resources.clusters.append(cluster)
    routes = decode(resources[TypeUrl.ROUTE][OUTBOUND_HTTP], RouteConfiguration)
    for resource in resources[TypeUrl.LISTENER].values():
        listener = decode(resource, Listener)
        packed = listener.filter_chains[0].filters[0].typed_config
        manager = HttpConnectionManager()
        if packed.Unpack(manager):
            manager.route_config.CopyFrom(routes)
            packed.Pack(manager)
        bootstrap.static_resources.listeners.append(listener)
    return bootstrap


@pytest.mark.parametrize("version", ENVOYS)
def test_envoy_accepts_every_golden_case(version: str, tmp_path: Path) -> None:
    """All cases in turn, each with its clusters, endpoints, listeners and routes."""
    for case in sorted(path.name for path in CASES.iterdir()):
        validate(version, to_json(inlined(translate(load(case)))), tmp_path / f"{case}.json")


@pytest.mark.parametrize("version", ENVOYS)
@pytest.mark.parametrize("delta", [True, False])
def test_envoy_accepts_the_bootstrap(version: str, delta: bool, tmp_path: Path) -> None:
    """With everything said that can be said, and the bridge under a host name."""
    bootstrap = to_bootstrap(
        "web-1",
        "web",
        "bridge.example",
        15010,
        admin_address="::1",
        locality=Locality("eu", "eu-1", "rack-1"),
        metadata={"service": "web", "labels": {"version": "v1"}},
        delta=delta,
    )
    validate(version, to_yaml(bootstrap), tmp_path / "bootstrap.yaml")
