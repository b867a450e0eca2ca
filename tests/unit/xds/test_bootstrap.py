from __future__ import annotations

import json

import pytest
import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource
from google.protobuf.json_format import MessageToJson, Parse

from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import to_bootstrap, to_json, to_yaml


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", Cluster.STATIC), ("::1", Cluster.STATIC), ("bridge.example", Cluster.STRICT_DNS)],
)
def test_only_host_names_are_resolved(host: str, expected: Cluster.DiscoveryType) -> None:
    assert to_bootstrap("n", "c", host, 15010).static_resources.clusters[0].type == expected


@pytest.mark.parametrize(("delta", "expected"), [(True, ApiConfigSource.DELTA_GRPC), (False, ApiConfigSource.GRPC)])
def test_both_forms_of_the_protocol_can_be_asked_for(delta: bool, expected: ApiConfigSource.ApiType) -> None:
    assert to_bootstrap("n", "c", "::1", 15010, delta=delta).dynamic_resources.ads_config.api_type == expected


def test_the_node_says_who_it_is() -> None:
    node = to_bootstrap(
        "web-1", "web", "::1", 15010, locality=Locality("eu", "eu-1"), metadata={"labels": {"version": "v1"}}
    ).node
    assert (node.id, node.cluster) == ("web-1", "web")
    assert (node.locality.region, node.locality.zone) == ("eu", "eu-1")
    assert json.loads(MessageToJson(node.metadata)) == {"labels": {"version": "v1"}}


def test_yaml_and_json_say_the_same() -> None:
    """Both are what Envoy reads, down to the last field."""
    bootstrap = to_bootstrap("web-1", "web", "bridge.example", 15010, metadata={"labels": {"version": "v1"}})
    assert yaml.safe_load(to_yaml(bootstrap)) == json.loads(to_json(bootstrap))
    assert Parse(to_json(bootstrap), Bootstrap()) == bootstrap
