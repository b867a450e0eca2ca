"""Laws of translation."""

from __future__ import annotations

import ipaddress
import itertools
import random

import msgspec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Catalog, Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.xds.names import ClusterName
from isthmus.xds.resource import TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate
from isthmus.xds.translate.grpc_view import GrpcView, to_grpc_view

# Few values each, so that names, addresses and ports collide often.
KEYS = [ServiceKey(namespace, name) for namespace in ("default", "b") for name in ("a", "A", "b", "a.b", "c d")]
HOSTNAMES = ["a", "b.default", "x.example", "X.example.", "*.example", "*", "a.b.mesh", ""]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "::1", "0:0::1", "unix:///run/x", "db.example", ""]

instances = st.builds(
    Instance,
    id=st.sampled_from(["i1", "i2", "i3", "i4"]),
    origin=st.just("o"),
    address=st.sampled_from(ADDRESSES),
    ports=st.dictionaries(st.sampled_from(["p1", "p2"]), st.sampled_from([0, 80, 8080, 65536])),
    health=st.sampled_from(Health),
    weight=st.sampled_from([0, 1, 7, 2**32]),
    locality=st.builds(Locality, st.sampled_from(["", "eu"]), st.sampled_from(["", "eu-1"])),
    labels=st.dictionaries(st.sampled_from(["version", "zone"]), st.sampled_from(["v1", "v2"])),
)
ports = st.builds(Port, st.sampled_from(["p1", "p2"]), st.sampled_from([80, 81, 15001]), st.sampled_from(Protocol))
contents = st.tuples(
    st.lists(ports, min_size=1, max_size=3, unique_by=lambda p: p.name),
    st.lists(instances, max_size=4, unique_by=lambda i: i.id),
    st.frozensets(st.sampled_from(HOSTNAMES), max_size=3),
)


@st.composite
def services(draw: st.DrawFn) -> dict[ServiceKey, Service]:
    found = draw(st.dictionaries(st.sampled_from(KEYS), contents, max_size=6))
    return {
        key: Service(key, tuple(sorted(p, key=lambda p: p.number)), tuple(sorted(i, key=lambda i: i.id)), hostnames)
        for key, (p, i, hostnames) in found.items()
    }


virtual_ips = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["127.64.0.1", "127.64.0.2", "127.0.0.1"]))
settings = st.sampled_from([MeshSettings(), MeshSettings(), MeshSettings(domain="example")])
meshes = st.builds(Mesh, st.builds(Catalog, services()), settings, virtual_ips)


def content(translation: Translation) -> object:
    return translation.resources, translation.conflicts


@given(meshes, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(mesh: Mesh, rng: random.Random) -> None:
    """Replicas that learn of services and instances in different orders send equal bytes."""
    shuffled = list(mesh.catalog.services.items())
    rng.shuffle(shuffled)
    reordered = {
        key: msgspec.structs.replace(
            service,
            instances=tuple(rng.sample(service.instances, len(service.instances))),
            ports=tuple(rng.sample(service.ports, len(service.ports))),
        )
        for key, service in shuffled
    }
    other = msgspec.structs.replace(mesh, catalog=Catalog(reordered))
    assert content(translate(other)) == content(translate(mesh))


@given(st.lists(meshes, min_size=2, max_size=4))
def test_hints_and_history_change_nothing_but_time(history: list[Mesh]) -> None:
    """With hints, without hints, or from nothing: one outcome, and `changed` names exactly what differs."""
    hinted = bare = translate(history[0])
    for before, mesh in itertools.pairwise(history):
        old, new = before.catalog.services, mesh.catalog.services
        keys = frozenset(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        last = hinted
        hinted = translate(msgspec.structs.replace(mesh, catalog=Catalog(new, changed=keys)), hinted)
        bare = translate(mesh, bare)
        assert content(hinted) == content(bare) == content(translate(mesh))
        assert hinted.changed == bare.changed == differing(last, hinted)


def differing(before: Translation | GrpcView, after: Translation | GrpcView) -> dict[TypeUrl, frozenset[str]]:
    return {
        t: frozenset(
            name
            for name in before.resources[t].keys() | after.resources[t].keys()
            if before.resources[t].get(name) != after.resources[t].get(name)
        )
        for t in TypeUrl
    }


@given(st.lists(meshes, min_size=2, max_size=4))
def test_hints_and_history_change_nothing_but_time_for_grpc(history: list[Mesh]) -> None:
    translation = translate(history[0])
    hinted = bare = to_grpc_view(translation)
    for mesh in history[1:]:
        translation = translate(mesh, translation)
        last = hinted
        hinted = to_grpc_view(translation, hinted, translation.affected)
        bare = to_grpc_view(translation, bare)
        for view in (bare, to_grpc_view(translate(mesh))):
            assert (hinted.resources, hinted.conflicts) == (view.resources, view.conflicts)
        assert hinted.changed == bare.changed == differing(last, hinted)


@given(meshes)
def test_grpc_finds_nothing_that_it_refuses(mesh: Mesh) -> None:
    """The rules of gRFC A27, A37 and A71: one refused resource would leave a client without a service.

    Rules 43, 44, 45 and 46.
    """
    translation = translate(mesh)
    resources = to_grpc_view(translation).resources
    clusters = {name: Cluster.FromString(r.body) for name, r in resources[TypeUrl.CLUSTER].items()}
    for name, cluster in clusters.items():
        assert cluster.lb_policy == Cluster.ROUND_ROBIN
        if cluster.type == Cluster.EDS:
            assert name in resources[TypeUrl.ENDPOINT]
        else:
            assert cluster.type == Cluster.LOGICAL_DNS
            assert [len(at.lb_endpoints) for at in cluster.load_assignment.endpoints] == [1]
    for resource in resources[TypeUrl.ENDPOINT].values():
        localities = ClusterLoadAssignment.FromString(resource.body).endpoints
        places = [(at.priority, at.locality.SerializeToString(deterministic=True)) for at in localities]
        assert len(places) == len(set(places))
        assert {at.priority for at in localities} in ({0}, {0, 1}, set())
        found = [e.endpoint.address.socket_address for at in localities for e in at.lb_endpoints]
        addresses = [(ipaddress.ip_address(a.address), a.port_value) for a in found]
        assert len(addresses) == len(set(addresses))
        assert all(at.HasField("locality") and at.load_balancing_weight.value > 0 for at in localities)
        assert sum(at.load_balancing_weight.value for at in localities) < 2**32
    for name, resource in resources[TypeUrl.LISTENER].items():
        listener, manager = Listener.FromString(resource.body), HttpConnectionManager()
        assert listener.name == name
        assert listener.api_listener.api_listener.Unpack(manager)
        assert manager.route_config.virtual_hosts[0].routes[0].route.cluster in clusters


@given(meshes)
def test_grpc_calls_what_envoy_calls(mesh: Mesh) -> None:
    """Every host name that Envoy routes by, but for patterns, is a listener, and leads to the same service. Rule 44."""
    translation = translate(mesh)
    owners: dict[str, str] = {}
    for resource in translation.resources[TypeUrl.ROUTE].values():
        for host in RouteConfiguration.FromString(resource.body).virtual_hosts:
            owners |= {d: host.name.rpartition(":")[0] for d in host.domains if not d.startswith("*")}
    called: dict[str, str] = {}
    for name, resource in to_grpc_view(translation).resources[TypeUrl.LISTENER].items():
        manager = HttpConnectionManager()
        assert Listener.FromString(resource.body).api_listener.api_listener.Unpack(manager)
        cluster = manager.route_config.virtual_hosts[0].routes[0].route.cluster
        called[name] = ClusterName.parse(cluster).hostname
    assert called == owners


@given(meshes)
def test_whatever_is_referred_to_exists(mesh: Mesh) -> None:
    """Routes and TCP listeners lead to clusters; each EDS cluster has its assignment, and no assignment is left over. Rule 39."""
    resources = translate(mesh).resources
    clusters = {name: Cluster.FromString(r.body) for name, r in resources[TypeUrl.CLUSTER].items()}
    assert all(name == cluster.name for name, cluster in clusters.items())
    over_eds = {cluster.eds_cluster_config.service_name for cluster in clusters.values() if cluster.type == Cluster.EDS}
    assert over_eds == resources[TypeUrl.ENDPOINT].keys()
    for resource in resources[TypeUrl.ROUTE].values():
        hosts = RouteConfiguration.FromString(resource.body).virtual_hosts
        targets = {route.route.cluster for host in hosts for route in host.routes if route.HasField("route")}
        assert targets <= clusters.keys()
    for resource in resources[TypeUrl.LISTENER].values():
        proxy = TcpProxy()
        if Listener.FromString(resource.body).filter_chains[0].filters[0].typed_config.Unpack(proxy):
            assert proxy.cluster in clusters


@given(meshes)
def test_envoy_finds_nothing_twice(mesh: Mesh) -> None:
    """No domain, virtual host, place to listen or endpoint address occurs twice: Envoy or gRPC would reject all of it."""
    resources = translate(mesh).resources
    for resource in resources[TypeUrl.ROUTE].values():
        hosts = RouteConfiguration.FromString(resource.body).virtual_hosts
        for many in ([host.name for host in hosts], [d.lower() for host in hosts for d in host.domains]):
            assert len(many) == len(set(many))
    places = [
        Listener.FromString(r.body).address.SerializeToString(deterministic=True)
        for r in resources[TypeUrl.LISTENER].values()
    ]
    assert len(places) == len(set(places))
    for resource in resources[TypeUrl.ENDPOINT].values():
        localities = ClusterLoadAssignment.FromString(resource.body).endpoints
        found = [e.endpoint.address.SerializeToString(deterministic=True) for at in localities for e in at.lb_endpoints]
        assert len(found) == len(set(found))
        assert all(e.load_balancing_weight.value > 0 for at in localities for e in at.lb_endpoints)
        assert sum(at.load_balancing_weight.value for at in localities) < 2**32


@given(st.integers(0, 5), st.integers(1, 6))
def test_removing_a_service_touches_its_own_resources_alone(gone: int, count: int) -> None:
    """Among services that contest nothing, only the routes are shared."""
    keys = [ServiceKey("default", f"s{n}") for n in range(count)]
    port, raw = Port("http", 80, Protocol.HTTP), Port("tcp", 81, Protocol.TCP)
    by_key = {key: Service(key, (port, raw)) for key in keys}
    addresses = {key: f"127.64.0.{n + 1}" for n, key in enumerate(keys)}
    before = translate(Mesh(Catalog(by_key), virtual_ips=addresses))
    key = keys[gone % count]
    rest = {k: service for k, service in by_key.items() if k != key}
    after = translate(Mesh(Catalog(rest, changed=frozenset({key})), virtual_ips=addresses), before)
    clusters = frozenset(f"outbound|{number}||{key.name}.default.mesh" for number in (80, 81))
    assert {t: changed for t, changed in (after.changed or {}).items() if changed} == {
        TypeUrl.CLUSTER: clusters,
        TypeUrl.ENDPOINT: clusters,
        TypeUrl.LISTENER: {f"{addresses[key]}_81"},
        TypeUrl.ROUTE: {"outbound_http"},
    }
