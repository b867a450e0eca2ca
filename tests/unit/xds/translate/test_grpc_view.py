from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any
from msgspec.structs import replace

from isthmus.registry.model import Catalog, Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.xds.grpc_bootstrap import SERVER_LISTENER
from isthmus.xds.resource import TypeUrl
from isthmus.xds.translate import Mesh, translate
from isthmus.xds.translate.grpc_listeners import GrpcListeners
from isthmus.xds.translate.grpc_view import GrpcView, to_grpc_view

GRPC = Port("grpc", 9090, Protocol.GRPC)
HTTP = Port("http", 80, Protocol.HTTP)
TCP = Port("tcp", 5432, Protocol.TCP)
WEB = ServiceKey("default", "web")
CLUSTER = "outbound|9090||web.default.mesh"


def mk_instance(number: int, address: str = "", health: Health = Health.HEALTHY, weight: int = 1) -> Instance:
    ports = {"grpc": 9090, "http": 8080, "tcp": 5432}
    return Instance(f"i{number}", "o", address or f"10.0.0.{number}", ports, health, weight)


def mk_mesh(*services: Service) -> Mesh:
    return Mesh(Catalog({s.key: s for s in services}))


def view_of(*instances: Instance, ports: tuple[Port, ...] = (GRPC,), hostnames: tuple[str, ...] = ()) -> GrpcView:
    return to_grpc_view(translate(mk_mesh(Service(WEB, ports, instances, frozenset(hostnames)))))


def endpoints_of(view: GrpcView) -> dict[tuple[int, str], dict[str, int]]:
    """By priority and sub-zone, the addresses and weights of endpoints."""
    assignment = ClusterLoadAssignment.FromString(view.resources[TypeUrl.ENDPOINT][CLUSTER].body)
    for locality in assignment.endpoints:
        total = sum(e.load_balancing_weight.value for e in locality.lb_endpoints)
        assert locality.load_balancing_weight.value == total > 0, "gRPC skips a locality without a weight"
    return {
        (at.priority, at.locality.sub_zone): {
            e.endpoint.address.socket_address.address: e.load_balancing_weight.value for e in at.lb_endpoints
        }
        for at in assignment.endpoints
    }


def route_of(packed: Any) -> Route:
    manager = HttpConnectionManager()
    assert packed.Unpack(manager)
    assert [f.name for f in manager.http_filters] == ["envoy.filters.http.router"]
    (host,) = manager.route_config.virtual_hosts
    assert list(host.domains) == ["*"]
    return host.routes[0]


def targets_of(view: GrpcView) -> dict[str, str]:
    """The clusters that names lead to."""
    listeners = [Listener.FromString(r.body) for r in view.resources[TypeUrl.LISTENER].values()]
    assert [listener.name for listener in listeners] == list(view.resources[TypeUrl.LISTENER])
    return {listener.name: route_of(listener.api_listener.api_listener).route.cluster for listener in listeners}


def test_what_grpc_takes_as_envoy_does_is_the_same_object() -> None:
    translation = translate(mk_mesh(Service(WEB, (GRPC,), (mk_instance(1), mk_instance(2, health=Health.UNKNOWN)))))
    view = to_grpc_view(translation)
    for type_url in (TypeUrl.CLUSTER, TypeUrl.ENDPOINT):
        assert view.resources[type_url][CLUSTER] is translation.resources[type_url][CLUSTER]
    assert not view.conflicts


def test_each_name_with_each_port_and_alone() -> None:
    """Rule 49."""
    targets = targets_of(view_of(ports=(HTTP, GRPC), hostnames=("web.service.consul", "*.web.example")))
    names = {"web", "web.default", "web.default.mesh", "web.service.consul"}
    assert targets.keys() == names | {f"{n}:80" for n in names} | {f"{n}:9090" for n in names}
    assert targets["web:80"] == "outbound|80||web.default.mesh"


def test_a_name_alone_means_the_port_that_grpc_can_call() -> None:
    """Envoy takes the first port; a gRPC client that was sent to HTTP/1.1 could do nothing with it."""
    assert targets_of(view_of(ports=(HTTP, GRPC)))["web"] == CLUSTER
    assert targets_of(view_of(ports=(HTTP,)))["web"] == "outbound|80||web.default.mesh"


def test_a_port_that_turns_out_to_speak_grpc_gets_the_name_alone() -> None:
    """A corrected registration, say; host names and numbers are as before."""
    service = Service(WEB, (HTTP, replace(GRPC, protocol=Protocol.HTTP)))
    before = translate(mk_mesh(service))
    view = to_grpc_view(before)
    assert targets_of(view)["web"] == "outbound|80||web.default.mesh"
    after = translate(mk_mesh(replace(service, ports=(HTTP, GRPC))), before)
    assert targets_of(to_grpc_view(after, view, after.affected))["web"] == CLUSTER


def test_ports_that_are_not_http_are_not_for_grpc() -> None:
    view = view_of(mk_instance(1), ports=(TCP,))
    assert not any(view.resources.values())


def test_a_contested_name_belongs_to_one_service() -> None:
    """The one that an Envoy would send its callers to."""
    first = Service(ServiceKey("default", "a"), (GRPC,), (), frozenset({"shared.example"}))
    second = Service(ServiceKey("default", "b"), (GRPC,), (), frozenset({"shared.example"}))
    before = translate(mk_mesh(first, second))
    view = to_grpc_view(before)
    assert targets_of(view)["shared.example"] == "outbound|9090||a.default.mesh"
    after = translate(mk_mesh(second), before)
    assert targets_of(to_grpc_view(after, view, after.affected))["shared.example"] == "outbound|9090||b.default.mesh"


def test_a_changed_instance_changes_its_endpoints_and_nothing_else() -> None:
    service = Service(WEB, (GRPC,), (mk_instance(1),))
    before = translate(mk_mesh(service))
    view = to_grpc_view(before)
    after = translate(mk_mesh(replace(service, instances=(mk_instance(2),))), before)
    later = to_grpc_view(after, view, after.affected)
    assert later.changed is not None
    assert {t.short: names for t, names in later.changed.items() if names} == {"EDS": {CLUSTER}}
    for type_url in (TypeUrl.CLUSTER, TypeUrl.LISTENER):
        assert later.resources[type_url] is view.resources[type_url]


@pytest.mark.parametrize("health", [Health.UNHEALTHY, Health.DRAINING])
def test_what_is_not_used_counts_nowhere(health: Health) -> None:
    """A locality's weight is what draws calls to it. Rule 46."""
    view = view_of(mk_instance(1), mk_instance(2, health=health), mk_instance(3, weight=0))
    assert endpoints_of(view) == {(0, ""): {"10.0.0.1": 1}}


def test_degraded_instances_come_after_the_others() -> None:
    """Rule 46."""
    view = view_of(mk_instance(1), mk_instance(2, health=Health.DEGRADED))
    assert endpoints_of(view) == {(0, ""): {"10.0.0.1": 1}, (1, ""): {"10.0.0.2": 1}}


def test_when_all_are_degraded_they_come_first() -> None:
    """Priorities have no gap, and gRPC leaves alone what is said to be degraded. Rule 46."""
    view = view_of(mk_instance(1, health=Health.DEGRADED))
    assert endpoints_of(view) == {(0, ""): {"10.0.0.1": 1}}
    assignment = ClusterLoadAssignment.FromString(view.resources[TypeUrl.ENDPOINT][CLUSTER].body)
    assert assignment.endpoints[0].lb_endpoints[0].health_status == HealthStatus.HEALTHY


def test_instances_of_different_weight_are_in_different_places() -> None:
    """Round robin takes no notice of an endpoint's weight; where all weigh the same there is nothing to take notice of."""
    here, there = Locality("eu", "eu-1", "rack-1"), Locality("eu", "eu-1", "rack-2")
    view = view_of(
        replace(mk_instance(1), locality=here),
        replace(mk_instance(2, weight=3), locality=here),
        replace(mk_instance(3, weight=3), locality=there),
    )
    assert endpoints_of(view) == {
        (0, "rack-1(weight 1)"): {"10.0.0.1": 1},
        (0, "rack-1(weight 3)"): {"10.0.0.2": 3},
        (0, "rack-2"): {"10.0.0.3": 3},
    }


def test_of_host_names_one_is_resolved() -> None:
    """Rule 45."""
    view = view_of(mk_instance(1, "sick.example", Health.UNHEALTHY), *(mk_instance(n, f"{n}.example") for n in (2, 3)))
    cluster = Cluster.FromString(view.resources[TypeUrl.CLUSTER][CLUSTER].body)
    assert cluster.type == Cluster.LOGICAL_DNS
    (locality,) = cluster.load_assignment.endpoints
    (endpoint,) = locality.lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "2.example"
    assert not view.resources[TypeUrl.ENDPOINT]
    (conflict,) = view.conflicts
    assert "3.example" in conflict.dropped
    assert "gRPC" in conflict.subject


def test_ip_addresses_go_before_host_names_and_paths() -> None:
    view = view_of(mk_instance(1), mk_instance(2, "two.example"))
    assert Cluster.FromString(view.resources[TypeUrl.CLUSTER][CLUSTER].body).type == Cluster.EDS
    assert endpoints_of(view) == {(0, ""): {"10.0.0.1": 1}}
    assert ["i2" in c.dropped for c in view.conflicts] == [True]
    assert ["/run/x" in c.dropped for c in view_of(mk_instance(1), mk_instance(2, "unix:///run/x")).conflicts] == [True]


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:50051", "0.0.0.0", 50051),
        ("[::]:50051", "::", 50051),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
    ],
)
def test_any_server_gets_the_listener_of_its_address(address: str, host: str, port: int) -> None:
    """Whatever is registered: a server needs it before it serves, and registers itself when it does. Rule 43."""
    name = SERVER_LISTENER.replace("%s", address)
    listener = Listener.FromString(GrpcListeners({})[name].body)
    assert (listener.name, listener.address.socket_address.address) == (name, host)
    assert listener.address.socket_address.port_value == port
    (chain,) = listener.filter_chains
    (calls,) = chain.filters
    assert route_of(calls.typed_config).HasField("non_forwarding_action")


@pytest.mark.parametrize(
    "address", ["", "host:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:²", "%s:80"]
)
def test_what_is_no_address_has_no_listener(address: str) -> None:
    assert SERVER_LISTENER.replace("%s", address) not in GrpcListeners({})
