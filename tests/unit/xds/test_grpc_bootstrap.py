from __future__ import annotations

import json

from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import ClientTLS
from isthmus.xds.grpc_bootstrap import to_grpc_bootstrap


def test_it_says_who_the_program_is_and_where_the_bridge() -> None:
    """Rule 50."""
    document = json.loads(to_grpc_bootstrap("web-1", "web", "bridge.example", 15010, locality=Locality("eu", "eu-1")))
    assert document["node"] == {"id": "web-1", "cluster": "web", "locality": {"region": "eu", "zone": "eu-1"}}
    assert document["xds_servers"][0]["server_uri"] == "bridge.example:15010"
    assert "%s" in document["server_listener_resource_name_template"]


def test_what_is_gone_by_mistake_is_still_called() -> None:
    """Without this feature a cluster that is missing from one response fails the program's calls at once (gRFC A53). Rule 47."""
    (bridge,) = json.loads(to_grpc_bootstrap("n", "c", "::1", 15010))["xds_servers"]
    assert "ignore_resource_deletion" in bridge["server_features"]


def test_tls_needs_the_authority_and_nothing_else() -> None:
    """Rule 50."""
    (bridge,) = json.loads(to_grpc_bootstrap("n", "c", "::1", 15012, tls=ClientTLS("/etc/isthmus/ca.pem")))[
        "xds_servers"
    ]
    assert bridge["server_uri"] == "[::1]:15012"
    assert bridge["channel_creds"] == [{"type": "tls", "config": {"ca_certificate_file": "/etc/isthmus/ca.pem"}}]


def test_node_js_gets_the_locality_that_it_insists_on() -> None:
    """grpc-js-xds refuses a node without the field, and says so in words that nobody understands."""
    assert json.loads(to_grpc_bootstrap("n", "c", "::1", 15010))["node"]["locality"] == {}
