from __future__ import annotations

import pytest
from msgspec.structs import replace

from isthmus.registry.model import Catalog, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.translate import Mesh, Translation, translate
from isthmus.xds.translate.views import Views

ENVOY, GRPC = ProxyGroup(Kind.ENVOY), ProxyGroup(Kind.GRPC)
WEB = Service(ServiceKey("default", "web"), (Port("grpc", 9090, Protocol.GRPC),))


def mesh_with(*ports: int) -> Mesh:
    instances = tuple(Instance(f"i{port}", "o", "10.0.0.1", {"grpc": port}) for port in ports)
    return Mesh(Catalog({WEB.key: replace(WEB, instances=instances)}))


def mesh_of(**ports: int) -> Mesh:
    """Services by name, each with one instance at a port."""
    keys = {ServiceKey("default", name): port for name, port in ports.items()}
    instances = {key: (Instance("i", "o", "10.0.0.1", {"grpc": port}),) for key, port in keys.items()}
    return Mesh(Catalog({key: replace(WEB, key=key, instances=instances[key]) for key in keys}))


def history(*meshes: Mesh) -> list[Translation]:
    translations = [translate(meshes[0])]
    for mesh in meshes[1:]:
        translations.append(translate(mesh, translations[-1]))
    return translations


def content(snapshot: ResourceSnapshot) -> object:
    return {t: dict(snapshot.of_type(t)) for t in TypeUrl}, snapshot.versions


def test_both_kinds_have_a_view_of_one_mesh() -> None:
    views = Views(translate(mesh_with(1)))
    assert views.make(ENVOY).of_type(TypeUrl.ENDPOINT) == views.make(GRPC).of_type(TypeUrl.ENDPOINT) != {}
    assert "web:9090" in views.make(GRPC).of_type(TypeUrl.LISTENER)
    assert "web:9090" not in views.make(ENVOY).of_type(TypeUrl.LISTENER)


def test_a_view_that_nobody_asks_for_is_not_made() -> None:
    """What is left out of it is known only once somebody has asked."""
    views = Views(translate(Mesh(Catalog({WEB.key: replace(WEB, instances=(mk_path(),))}))))
    assert GRPC in views
    assert views[GRPC] is None
    assert not views.conflicts
    assert views.make(GRPC).generation == 1
    assert len(views.conflicts) == 1


def mk_path() -> Instance:
    return Instance("i", "o", "unix:///run/x", {"grpc": 1})


@pytest.mark.parametrize("asked", [{0, 1, 2, 3}, {0, 3}, {3}, {1, 3}, {0, 1, 3}])
def test_it_does_not_matter_when_a_view_was_asked_for_before(asked: set[int]) -> None:
    translations = history(mesh_of(a=1, b=1), mesh_of(a=2, b=1), mesh_of(b=1), mesh_of(b=2, c=1))
    views = Views(translations[0])
    last: ResourceSnapshot | None = None
    for turn, translation in enumerate(translations):
        views = views.next(translation) if turn else views
        last = views.make(GRPC) if turn in asked else None
    assert last is not None
    assert content(last) == content(Views(translations[3]).make(GRPC))
    assert last.generation == len(asked), "each differs from the one that was asked for before"


def test_what_changes_for_one_kind_alone_is_no_generation_of_the_other() -> None:
    """A TCP port is nothing to gRPC."""
    tcp = replace(WEB, ports=(*WEB.ports, Port("tcp", 5432, Protocol.TCP)))
    before, after = history(Mesh(Catalog({WEB.key: WEB})), Mesh(Catalog({WEB.key: tcp})))
    views = Views(before)
    grpc = views.make(GRPC)
    later = views.next(after)
    assert later.make(GRPC) is grpc
    assert later.make(ENVOY).generation == views.make(ENVOY).generation + 1


def test_a_server_gets_its_listener_from_a_mesh_without_services() -> None:
    name = "grpc/server?xds.resource.listening_address=0.0.0.0:50051"
    views = Views(translate(Mesh(Catalog({}))))
    assert name in views.make(GRPC).of_type(TypeUrl.LISTENER)
    views = views.next(translate(mesh_with(1)))
    assert name in views.make(GRPC).of_type(TypeUrl.LISTENER)
