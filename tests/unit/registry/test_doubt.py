from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.doubt import examine
from isthmus.registry.model import Catalog, Conflict, Health, Instance, Port, Protocol, Quarantined, Service
from tests.world import mk_instance, mk_service


def codes(*services: Service) -> set[str]:
    return {f.code for f in examine(Catalog({s.key: s for s in services}), ())}


def at(address: str, port: int = 8080, **more: object) -> Instance:
    return msgspec.structs.replace(mk_instance(1), address=address, ports={"http": port}, **more)


def test_a_sound_catalog_has_no_findings() -> None:
    assert codes(mk_service("reviews", [mk_instance(1), mk_instance(2)])) == set()


@pytest.mark.parametrize(
    ("instance", "code"),
    [
        (at("127.0.0.1"), "Loopback"),
        (at("::1"), "Loopback"),
        (at("0.0.0.0"), "Unroutable"),
        (at("169.254.3.4"), "Unroutable"),
        (at("172.17.0.5"), "ContainerAddress"),
        (at("10.0.0.1", port=0), "PortZero"),
        (msgspec.structs.replace(mk_instance(1), ports={}), "NoPorts"),
        (at("10.0.0.1", provenance={"lease": "0"}), "PermanentKey"),
    ],
)
def test_a_doubtful_instance_is_named_with_its_fix(instance: Instance, code: str) -> None:
    (finding,) = examine(Catalog({(s := mk_service("reviews", [instance])).key: s}), ())

    assert finding.code == code
    assert finding.subject == "reviews.default i1"
    assert finding.fix


def test_a_socket_needs_no_port() -> None:
    assert codes(mk_service("reviews", [at("unix:///run/reviews.sock", port=0)])) == set()


def test_one_address_in_two_services() -> None:
    assert codes(mk_service("reviews", [mk_instance(1)]), mk_service("ratings", [mk_instance(1)])) == {"SharedAddress"}


def test_services_that_nobody_serves() -> None:
    assert codes(mk_service("reviews")) == {"NoInstances"}
    assert codes(mk_service("reviews", [mk_instance(1, health=Health.UNHEALTHY)])) == {"NothingServes"}
    assert codes(mk_service("reviews", [mk_instance(1, weight=0)])) == {"NothingServes"}


def test_http_and_tcp_in_one_service() -> None:
    service = mk_service("reviews", [mk_instance(1)])
    ports = (*service.ports, Port("tcp", 81, Protocol.TCP))

    assert codes(msgspec.structs.replace(service, ports=ports)) == {"MixedProtocols"}


def test_conflicts_and_quarantined_objects_are_findings_too() -> None:
    catalog = Catalog({}, (Conflict("host name web", "web.default", "web.other"),))

    found = examine(catalog, [Quarantined("files", "a.yaml:3", "weight: expected int")])

    assert [f.code for f in found] == ["Conflict", "Quarantined"]
