from __future__ import annotations

from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from isthmus.registry.model import Health, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.translate.endpoints import Assignment, to_assignment

PORT = Port("http", 80, Protocol.HTTP)
KEY = ServiceKey("default", "web")


def assign(*instances: Instance) -> Assignment:
    return to_assignment("outbound|80||web.default.mesh", Service(KEY, (PORT,), instances), PORT)


def message(assignment: Assignment) -> ClusterLoadAssignment:
    return ClusterLoadAssignment.FromString(assignment.body)


def test_an_instance_that_does_not_serve_the_port_is_no_endpoint() -> None:
    assignment = assign(Instance("web-1", "o", "10.0.0.1", {"admin": 1}))
    assert not message(assignment).endpoints
    assert not assignment.conflicts


def test_weights_beyond_what_envoy_takes_keep_their_ratio() -> None:
    """Envoy rejects an assignment whose weights sum up to more than 2^32 - 1."""
    assignment = assign(
        Instance("web-1", "o", "10.0.0.1", {"http": 80}, weight=6_000_000_000),
        Instance("web-2", "o", "10.0.0.2", {"http": 80}, weight=3_000_000_000),
        Instance("web-3", "o", "10.0.0.3", {"http": 80}, weight=1),
    )
    locality = message(assignment).endpoints[0]
    big, half, small = (endpoint.load_balancing_weight.value for endpoint in locality.lb_endpoints)
    assert big == 2 * half
    assert small == 1
    assert locality.load_balancing_weight.value == big + half + small < 2**32


def test_of_two_registrations_at_one_address_the_healthier_is_sent() -> None:
    """A stale registration must not hide the one that took its place."""
    assignment = assign(
        Instance("web-0-old", "o", "10.0.0.1", {"http": 80}, Health.UNHEALTHY),
        Instance("web-1-new", "o", "10.0.0.1", {"http": 80}, Health.HEALTHY),
    )
    (endpoint,) = message(assignment).endpoints[0].lb_endpoints
    assert endpoint.health_status == HealthStatus.HEALTHY
    assert endpoint.metadata.filter_metadata["isthmus"]["instance"] == "web-1-new"
    (conflict,) = assignment.conflicts
    assert "web-1-new" in conflict.kept
    assert "web-0-old" in conflict.dropped


def test_two_spellings_of_an_address_are_one_address() -> None:
    assignment = assign(
        Instance("web-1", "o", "2001:db8::1", {"http": 80}),
        Instance("web-2", "o", "2001:DB8:0:0::1", {"http": 80}),
    )
    assert len(message(assignment).endpoints[0].lb_endpoints) == 1


def test_a_change_of_one_instance_encodes_one_endpoint() -> None:
    """However many there are: the others are the ones that were encoded before."""
    many = [Instance(f"web-{n}", "o", f"10.0.0.{n}", {"http": 80}) for n in range(1, 101)]
    before = assign(*many)
    many[41] = Instance("web-42", "o", "10.0.0.42", {"http": 80}, Health.DRAINING)

    after = to_assignment("outbound|80||web.default.mesh", Service(KEY, (PORT,), tuple(many)), PORT, before.endpoints)

    encoded = [e for e in after.endpoints if all(e is not other for other in before.endpoints)]
    assert [e.instance.id for e in encoded] == ["web-42"]
    assert after == assign(*many)
