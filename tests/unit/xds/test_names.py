from __future__ import annotations

import pytest

from isthmus.registry.model import ServiceKey
from isthmus.xds.names import ClusterName, alias, hostname, outbound


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("default", "reviews", "reviews.default.mesh"),
        ("default", "REVIEWS", "reviews.default.mesh"),
        ("default", "my_service", "my_service.default.mesh"),
        ("Team A", "my service!", "my-service.team-a.mesh"),
        ("default", "com.example..Orders.", "com.example.orders.default.mesh"),
    ],
)
def test_the_host_name_of_a_service_is_fit_for_envoy_and_dns(namespace: str, name: str, expected: str) -> None:
    assert hostname(ServiceKey(namespace, name), "Mesh") == expected


@pytest.mark.parametrize("name", ["x" * 64, "x" * 200, "商店", "!", "."])
def test_names_that_cannot_be_labels_get_distinct_ones(name: str) -> None:
    """Two services whose names cannot be written in full still differ."""
    label = hostname(ServiceKey("default", name), "mesh").split(".")[0]
    other = hostname(ServiceKey("default", name + "!!"), "mesh").split(".")[0]
    assert 0 < len(label) <= 63
    assert label.isascii()
    assert label != other or name.startswith(".")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Reviews.Service.Consul.", "reviews.service.consul"),
        ("reviews", "reviews"),
        ("_http._tcp.example.com", "_http._tcp.example.com"),
        ("*.example.com", "*.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("", None),
        (".", None),
        ("*", None),
        ("a..b", None),
        ("a b", None),
        ("reviews:9080", None),
        ("-x", None),
        ("x" * 64, None),
        ("a.*.b", None),
    ],
)
def test_an_alias_is_a_host_name_or_nothing(text: str, expected: str | None) -> None:
    assert alias(text) == expected


@pytest.mark.parametrize(
    "name", [ClusterName("outbound", 9080, "", "reviews.default.mesh"), ClusterName("inbound", 80, "v2", "")]
)
def test_a_cluster_name_can_be_read_back(name: ClusterName) -> None:
    assert ClusterName.parse(str(name)) == name


def test_cluster_names_are_istios() -> None:
    assert outbound(9080, "reviews.default.mesh", "v2") == "outbound|9080|v2|reviews.default.mesh"


@pytest.mark.parametrize("text", ["", "xds-grpc", "outbound|http||reviews", "outbound|80|reviews", "a|1|b|c|d"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no cluster name: expected <direction>\|<port>"):
        ClusterName.parse(text)
