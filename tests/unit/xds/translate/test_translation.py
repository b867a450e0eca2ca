from __future__ import annotations

import time

import msgspec
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from isthmus.registry.model import Catalog, Conflict, Health, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.resource import TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate
from isthmus.xds.translate.listeners import OUTBOUND_HTTP

HTTP = Port("http", 80, Protocol.HTTP)
TCP = Port("tcp", 5432, Protocol.TCP)


def mk_service(name: str, *hostnames: str, namespace: str = "default", ports: tuple[Port, ...] = (HTTP,)) -> Service:
    instances = (Instance(f"{name}-1", "o", "10.0.0.1", {"http": 8080, "tcp": 5432}),)
    return Service(ServiceKey(namespace, name), ports, instances, frozenset(hostnames))


def mk_mesh(*services: Service, changed: frozenset[ServiceKey] | None = None, **virtual_ips: str) -> Mesh:
    by_key = {service.key: service for service in services}
    ips = {ServiceKey("default", name): address for name, address in virtual_ips.items()}
    return Mesh(Catalog(by_key, changed=changed), virtual_ips=ips)


def changed_names(translation: Translation) -> dict[str, frozenset[str]]:
    assert translation.changed is not None
    return {type_url.short: names for type_url, names in translation.changed.items() if names}


def domain_owners(translation: Translation) -> dict[str, str]:
    routes = RouteConfiguration.FromString(translation.resources[TypeUrl.ROUTE][OUTBOUND_HTTP].body)
    owners = [(domain, host.name) for host in routes.virtual_hosts for domain in host.domains]
    assert len({domain for domain, _ in owners}) == len(owners), "Envoy rejects a domain that occurs twice"
    return dict(owners)


def test_a_changed_instance_changes_its_endpoints_and_nothing_else() -> None:
    """Every other resource is the very same object, so nothing is encoded or sent again."""
    web, api = mk_service("web"), mk_service("api")
    before = translate(mk_mesh(web, api))
    sick = msgspec.structs.replace(web, instances=(msgspec.structs.replace(web.instances[0], health=Health.UNHEALTHY),))
    after = translate(mk_mesh(sick, api, changed=frozenset({web.key})), before)
    assert changed_names(after) == {"EDS": frozenset({"outbound|80||web.default.mesh"})}
    for type_url in (TypeUrl.CLUSTER, TypeUrl.LISTENER, TypeUrl.ROUTE):
        assert after.resources[type_url] is before.resources[type_url]


def test_a_first_instance_with_a_host_name_turns_the_cluster_to_dns() -> None:
    """The assignment goes away with the cluster's need for it."""
    web = mk_service("web")
    before = translate(mk_mesh(web))
    named = msgspec.structs.replace(web, instances=(Instance("web-1", "o", "web.example", {"http": 80}),))
    after = translate(mk_mesh(named), before)
    name = "outbound|80||web.default.mesh"
    assert changed_names(after) == {"CDS": frozenset({name}), "EDS": frozenset({name})}
    assert not after.resources[TypeUrl.ENDPOINT]


def test_nothing_changed_is_nothing_changed() -> None:
    mesh = mk_mesh(mk_service("web"))
    before = translate(mesh)
    after = translate(mk_mesh(mk_service("web")), before)
    assert changed_names(after) == {}
    assert after.resources == before.resources


def test_a_services_own_name_beats_an_alias_of_a_service_before_it() -> None:
    translation = translate(mk_mesh(mk_service("aaa", "web", "web.default.mesh"), mk_service("web")))
    owners = domain_owners(translation)
    for domain in ("web", "web:80", "web.default.mesh", "web.default.mesh:80"):
        assert owners[domain] == "web.default.mesh:80"
    assert Conflict("host name web", "web.default", "aaa.default") in translation.conflicts


def test_when_the_owner_of_a_contested_name_leaves_the_other_gets_it() -> None:
    first, second = mk_service("a", "shared.example"), mk_service("b", "shared.example")
    before = translate(mk_mesh(first, second))
    assert domain_owners(before)["shared.example"] == "a.default.mesh:80"
    after = translate(mk_mesh(second, changed=frozenset({first.key})), before)
    assert domain_owners(after)["shared.example"] == "b.default.mesh:80"
    assert not after.conflicts


def test_of_two_services_with_one_host_name_the_first_key_stays() -> None:
    """Their clusters would have the same names; the second is left out, and comes in when the first leaves."""
    upper, lower = mk_service("WEB"), mk_service("web", ports=(Port("http", 81, Protocol.HTTP),))
    both = translate(mk_mesh(upper, lower))
    assert set(both.resources[TypeUrl.CLUSTER]) == {"outbound|80||web.default.mesh"}
    assert both.conflicts == (Conflict("host name web.default.mesh", "WEB.default", "web.default"),)
    alone = translate(mk_mesh(lower, changed=frozenset({upper.key})), both)
    assert set(alone.resources[TypeUrl.CLUSTER]) == {"outbound|81||web.default.mesh"}
    assert set(alone.resources[TypeUrl.ENDPOINT]) == {"outbound|81||web.default.mesh"}


def test_a_virtual_ip_brings_the_listener_that_was_missing() -> None:
    db = mk_service("db", ports=(TCP,))
    before = translate(mk_mesh(db))
    assert set(before.resources[TypeUrl.LISTENER]) == {OUTBOUND_HTTP}
    (conflict,) = before.conflicts
    assert conflict.subject == "port 5432 of db.default"
    after = translate(mk_mesh(db, changed=frozenset(), db="127.64.0.1"), before)
    assert changed_names(after) == {"LDS": frozenset({"127.64.0.1_5432"})}
    assert not after.conflicts


def test_two_services_never_listen_at_one_place() -> None:
    """Nor where the mesh's own listener is."""
    a, b = mk_service("a", ports=(TCP,)), mk_service("b", ports=(TCP,))
    c = mk_service("c", ports=(Port("tcp", 15001, Protocol.TCP),))
    translation = translate(mk_mesh(a, b, c, a="127.64.0.1", b="127.64.0.1", c="127.0.0.1"))
    assert set(translation.resources[TypeUrl.LISTENER]) == {OUTBOUND_HTTP, "127.64.0.1_5432"}
    assert Conflict("listener 127.64.0.1_5432", "a.default", "b.default") in translation.conflicts


def test_settings_change_everything() -> None:
    web = mk_service("web")
    before = translate(mk_mesh(web))
    mesh = Mesh(Catalog({web.key: web}, changed=frozenset()), MeshSettings(domain="example"))
    after = translate(mesh, before)
    assert set(after.resources[TypeUrl.CLUSTER]) == {"outbound|80||web.default.example"}
    assert after.resources == translate(mesh).resources


def test_one_instance_among_thousands_is_cheap() -> None:
    """The cost of a change does not follow the number of services: no service but the changed one is looked at."""
    services = {service.key: service for service in (mk_service(f"s{n}") for n in range(3_000))}
    translation = translate(Mesh(Catalog(services)))
    fastest = float("inf")
    for turn in range(20):
        service = services[ServiceKey("default", f"s{turn}")]
        moved = msgspec.structs.replace(service, instances=(Instance("x", "o", "10.9.9.9", {"http": 1000 + turn}),))
        services = {**services, service.key: moved}
        mesh = Mesh(Catalog(services, changed=frozenset({service.key})))
        started = time.perf_counter()
        translation = translate(mesh, translation)
        fastest = min(fastest, time.perf_counter() - started)
        assert changed_names(translation).keys() == {"EDS"}
    assert fastest < 0.005
