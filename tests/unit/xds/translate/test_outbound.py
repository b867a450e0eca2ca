"""Which HTTP listeners an Envoy has at addresses, and for connections that are redirected to it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from msgspec.structs import replace

from isthmus.registry.model import Catalog, Conflict, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.group import Kind, Outbound, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, translate
from isthmus.xds.translate.views import Views

PLAIN = ProxyGroup(Kind.ENVOY)
ADDRESSES, CAPTURED = (ProxyGroup(Kind.ENVOY, o) for o in (Outbound.ADDRESSES, Outbound.CAPTURED))
SHARED, OWN = MeshSettings().shared_address, "127.64.9.9"


def http(number: int) -> Port:
    return Port(f"http-{number}", number, Protocol.HTTP)


def tcp(number: int) -> Port:
    return Port(f"tcp-{number}", number, Protocol.TCP)


def mk(name: str, *ports: Port, instances: int = 1) -> Service:
    key = ServiceKey("default", name)
    places = (Instance(f"i{n}", "o", f"10.0.0.{n}", {p.name: p.number for p in ports}) for n in range(instances))
    return Service(key, ports, tuple(places))


def mesh(*services: Service, settings: MeshSettings | None = None, **virtual_ips: str) -> Mesh:
    addresses = {ServiceKey("default", name): address for name, address in virtual_ips.items()}
    return Mesh(Catalog({s.key: s for s in services}), settings or MeshSettings(), addresses)


def listeners(views: Views, group: ProxyGroup) -> Mapping[str, Listener]:
    found = views.make(group).of_type(TypeUrl.LISTENER)
    return {name: Listener.FromString(r.body) for name, r in found.items()}


def routes_of(listener: Listener) -> str:
    manager = HttpConnectionManager()
    return manager.rds.route_config_name if listener.filter_chains[0].filters[0].typed_config.Unpack(manager) else ""


def test_services_of_one_port_share_its_listener() -> None:
    views = Views(translate(mesh(mk("a", http(80)), mk("b", http(80), http(9080)))))
    found = listeners(views, ADDRESSES)
    assert set(found) == {"outbound_http", f"{SHARED}_80", f"{SHARED}_9080"}
    assert {routes_of(listener) for listener in found.values()} == {"outbound_http"}
    places = {(x.address.socket_address.address, x.address.socket_address.port_value) for x in found.values()}
    assert places == {("127.0.0.1", 15001), (SHARED, 80), (SHARED, 9080)}


def test_a_listener_goes_with_the_last_service_of_its_port() -> None:
    first = translate(mesh(mk("a", http(80)), mk("b", http(80))))
    views = Views(first)
    views.make(ADDRESSES)
    second = translate(mesh(mk("a", http(80))), first)
    views = views.next(second)
    assert f"{SHARED}_80" in listeners(views, ADDRESSES)
    views = views.next(translate(mesh(mk("a", http(81))), second))
    assert set(listeners(views, ADDRESSES)) == {"outbound_http", f"{SHARED}_81"}


def test_http_of_a_service_with_an_address_is_reached_there() -> None:
    """Its names resolve to that address, whichever of its ports is meant."""
    views = Views(translate(mesh(mk("a", http(80), tcp(5432)), a=OWN)))
    found = listeners(views, ADDRESSES)
    assert routes_of(found[f"{OWN}_80"]) == "outbound_http"
    assert routes_of(found[f"{OWN}_5432"]) == ""
    assert f"{OWN}_80" not in listeners(views, PLAIN)


def test_a_port_that_a_tcp_service_has_on_the_shared_address_stays_its_own() -> None:
    """An address that was given before there was a shared one is kept."""
    views = Views(translate(mesh(mk("old", tcp(80)), mk("web", http(80)), mk("api", http(81)), old=SHARED)))
    assert routes_of(listeners(views, ADDRESSES)[f"{SHARED}_80"]) == ""
    assert routes_of(listeners(views, ADDRESSES)[f"{SHARED}_81"]) == "outbound_http"
    assert views.conflicts == (Conflict(f"listener {SHARED}_80", "old.default", "HTTP at that address"),)


def test_the_place_of_the_listener_for_all_is_not_taken_twice() -> None:
    settings = MeshSettings(outbound_address=SHARED, outbound_port=8000)
    views = Views(translate(mesh(mk("a", http(8000)), settings=settings)))
    assert set(listeners(views, ADDRESSES)) == {"outbound_http"}
    assert f"{SHARED}_8000" in listeners(views, CAPTURED), "that one has no listener for all"
    assert not views.conflicts


def test_redirected_connections_have_a_listener_for_each_port() -> None:
    """It is not bound; what is not HTTP, or for nobody of the mesh, goes where it was going."""
    views = Views(translate(mesh(mk("a", http(80), tcp(5432)), mk("b", http(80)), a=OWN)))
    found = listeners(views, CAPTURED)
    assert set(found) == {f"{SHARED}_80", f"{OWN}_80", f"{OWN}_5432", "0.0.0.0_80"}
    captured = found["0.0.0.0_80"]
    assert captured.HasField("bind_to_port")
    assert not captured.bind_to_port.value
    assert routes_of(captured) == "outbound_captured"
    assert list(captured.filter_chains[0].filter_chain_match.application_protocols) == ["http/1.0", "http/1.1", "h2c"]
    assert captured.default_filter_chain.filters[0].name == "envoy.filters.network.tcp_proxy"

    routes = views.make(CAPTURED).of_type(TypeUrl.ROUTE)
    usual = RouteConfiguration.FromString(routes["outbound_http"].body).virtual_hosts
    passing = RouteConfiguration.FromString(routes["outbound_captured"].body).virtual_hosts
    assert list(passing[:-1]) == list(usual[:-1]) != []
    assert list(passing[-1].domains) == list(usual[-1].domains) == ["*"]
    assert passing[-1].routes[0].route.cluster == "PassthroughCluster"


@pytest.mark.parametrize("port", [15001, 15006])
def test_the_ports_that_connections_are_redirected_to_are_the_proxys_own(port: int) -> None:
    views = Views(translate(mesh(mk("a", http(port)))))
    assert set(listeners(views, CAPTURED)) == {f"{SHARED}_{port}"}
    assert [c.subject for c in views.conflicts] == [f"listener 0.0.0.0_{port}"]


def test_what_is_not_different_is_the_same_object() -> None:
    views = Views(translate(mesh(mk("a", http(80), tcp(5432)), a=OWN)))
    plain, captured = views.make(PLAIN), views.make(CAPTURED)
    addresses = views.make(ADDRESSES)
    for type_url in (TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.ROUTE):
        assert addresses.of_type(type_url) is plain.of_type(type_url)
    for type_url in (TypeUrl.CLUSTER, TypeUrl.ENDPOINT):
        assert captured.of_type(type_url) is plain.of_type(type_url)
    for name, resource in addresses.of_type(TypeUrl.LISTENER).items():
        assert plain.of_type(TypeUrl.LISTENER).get(name) in (None, resource)
    assert views.make(ProxyGroup(Kind.ENVOY, Outbound.EXPLICIT)) is plain


def test_where_connections_are_redirected_nothing_is_listened_at() -> None:
    """A program may listen on all addresses with the number of a mesh port; the proxy has none of them."""
    views = Views(translate(mesh(mk("a", http(80), tcp(5432)), a=OWN)))
    listeners = {
        name: Listener.FromString(resource.body)
        for name, resource in views.make(CAPTURED).of_type(TypeUrl.LISTENER).items()
    }

    assert {f"{OWN}_80", f"{OWN}_5432", "0.0.0.0_80"} <= listeners.keys()
    assert [name for name, listener in listeners.items() if listener.bind_to_port.value] == []
    assert all(listener.HasField("bind_to_port") for listener in listeners.values())


def test_a_change_of_instances_changes_endpoints_alone_in_every_view() -> None:
    """All views have the same generation, so that streams share what is sent."""
    first = translate(mesh(mk("a", http(80)), mk("b", tcp(80)), b=OWN))
    views = Views(first)
    groups = (PLAIN, ADDRESSES, CAPTURED)
    before = {group: views.make(group) for group in groups}
    second = translate(mesh(mk("a", http(80), instances=2), mk("b", tcp(80)), b=OWN), first)
    views = views.next(second)
    names = {TypeUrl.ENDPOINT: frozenset({"outbound|80||a.default.mesh"})}
    for group in groups:
        after = views.make(group)
        assert after.changed_since(before[group].generation) == names
        assert after.generation == views.envoy.generation
        assert after.memo is views.envoy.memo
        for type_url in (TypeUrl.LISTENER, TypeUrl.ROUTE):
            assert after.of_type(type_url) is before[group].of_type(type_url)


def test_a_view_that_was_away_for_long_is_brought_up_to_date() -> None:
    """Beyond what the log tells: then all is compared."""
    last = translate(mesh(mk("a", http(80), instances=0)))
    views = Views(last)
    stale = views.make(ADDRESSES)
    for count in range(1, 100):
        last = translate(mesh(mk("a", http(80 + count % 2), instances=count)), last)
        views = views.next(last)
    made = views.make(ADDRESSES)
    assert made.changed_since(stale.generation) is None
    assert content(made) == content(Views(translate(last.mesh)).make(ADDRESSES))


def test_views_are_made_for_who_asks() -> None:
    views = Views(translate(mesh(mk("a", http(80)))))
    assert views[ADDRESSES] is None
    assert views[CAPTURED] is None
    made = views.make(ADDRESSES)
    assert views[ADDRESSES] is made
    assert views[CAPTURED] is None


def test_a_service_that_another_one_keeps_out_has_no_listeners() -> None:
    """Both are called `a.default.mesh`; the listeners follow who is served."""
    a, other = mk("a", http(81)), replace(mk("A", http(80)), key=ServiceKey("default", "A"))
    first = translate(mesh(a, other))
    views = Views(first)
    assert set(listeners(views, ADDRESSES)) == {"outbound_http", f"{SHARED}_80"}
    views = views.next(translate(mesh(a), first))
    assert set(listeners(views, ADDRESSES)) == {"outbound_http", f"{SHARED}_81"}


def content(snapshot: ResourceSnapshot) -> object:
    return {t: dict(snapshot.of_type(t)) for t in TypeUrl}, dict(snapshot.versions)
