"""Bytes joined by hand must be what protobuf itself would make of them."""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.service.discovery.v3 import discovery_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from isthmus.xds.encode import to_delta_discovery_response, to_discovery_response
from isthmus.xds.protocol.response import Response
from isthmus.xds.resource import Resource, TypeUrl

names = st.text(min_size=1, max_size=300)
responses = st.builds(
    lambda resources, removed, version, nonce: Response(
        TypeUrl.CLUSTER,
        version,
        nonce,
        tuple(
            Resource.of(TypeUrl.CLUSTER, n, cluster_pb2.Cluster(name=n, alt_stat_name="x" * size))
            for n, size in resources
        ),
        tuple(removed),
    ),
    st.lists(st.tuples(names, st.integers(0, 40_000)), max_size=4),
    st.lists(names, max_size=3),
    names,
    names,
)
CONTROL_PLANE = base_pb2.ControlPlane(identifier="isthmus")


@given(responses)
def test_state_of_the_world(response: Response) -> None:
    """Rule 33."""
    parsed = discovery_pb2.DiscoveryResponse.FromString(
        to_discovery_response(response, CONTROL_PLANE.SerializeToString())
    )

    expected = discovery_pb2.DiscoveryResponse(
        version_info=response.version, type_url=response.type_url, nonce=response.nonce, control_plane=CONTROL_PLANE
    )
    for resource in response.resources:
        expected.resources.add(type_url=response.type_url, value=resource.body)
    errors = {e.resource_name.name: e.error_detail for e in parsed.resource_errors}
    del parsed.resource_errors[:]
    assert parsed == expected
    assert errors.keys() == set(response.removed)
    for name, error in errors.items():
        assert error.code == StatusCode.NOT_FOUND.value[0]
        assert f'no Cluster "{name}"' in error.message


def test_endpoints_that_do_not_exist_are_an_empty_assignment() -> None:
    """Silence would keep an Envoy waiting for 15 s, and it knows no errors. Rule 39."""
    response = Response(TypeUrl.ENDPOINT, "v", "n", (), ("gone",))
    parsed = discovery_pb2.DiscoveryResponse.FromString(to_discovery_response(response, b""))
    assert not parsed.resource_errors
    assignment = endpoint_pb2.ClusterLoadAssignment()
    assert parsed.resources[0].Unpack(assignment)
    assert assignment == endpoint_pb2.ClusterLoadAssignment(cluster_name="gone")


def test_virtual_hosts_on_demand() -> None:
    """Rule 30: by the alias that was asked for; without a body if there is none, and as removed only if there was one.

    Rule 28.
    """
    host = Resource.of(TypeUrl.VIRTUAL_HOST, "all/a.example", route_components_pb2.VirtualHost(name="a", domains=["a"]))
    response = Response(
        TypeUrl.VIRTUAL_HOST, "v", "n", (host,), ("all/b.example", "all/c.example"), frozenset({"all/c.example"})
    )
    parsed = discovery_pb2.DeltaDiscoveryResponse.FromString(to_delta_discovery_response(response, b""))
    assert [(r.name, list(r.aliases), r.HasField("resource")) for r in parsed.resources] == [
        ("all/a.example", ["all/a.example"], True),
        ("all/c.example", ["all/c.example"], False),
    ]
    assert parsed.removed_resources == ["all/b.example"]


@given(responses)
def test_delta(response: Response) -> None:
    """Rule 28."""
    parsed = discovery_pb2.DeltaDiscoveryResponse.FromString(
        to_delta_discovery_response(response, CONTROL_PLANE.SerializeToString())
    )

    expected = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        control_plane=CONTROL_PLANE,
    )
    for resource in response.resources:
        item = expected.resources.add(name=resource.name, version=resource.version)
        item.resource.type_url = response.type_url
        item.resource.value = resource.body
    assert parsed == expected
