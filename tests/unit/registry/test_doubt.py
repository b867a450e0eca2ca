from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.doubt import Finding, examine
from isthmus.registry.model import Catalog, Conflict, Health, Instance, Port, Protocol, Quarantined, Service
from tests.world import mk_instance, mk_service


def findings(*services: Service) -> tuple[Finding, ...]:
    return examine(Catalog({s.key: s for s in services}), ())


def codes(*services: Service) -> set[str]:
    return {f.code for f in findings(*services)}


def at(address: str, port: int = 8080, **more: object) -> Instance:
    return msgspec.structs.replace(mk_instance(1), **{"address": address, "ports": {"http": port}} | more)


def test_a_sound_catalog_has_no_findings() -> None:
    assert codes(mk_service("reviews", [mk_instance(1), mk_instance(2)])) == set()


OTHER = mk_instance(9)


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
        (at("10.0.0.1", provenance={"lease": "none: the key is permanent"}), "PermanentKey"),
        (at("db.example", provenance={"lease": "none: the key is permanent"}), "PermanentKey"),
        (at("10.0.0.1", provenance={"renewal": "overdue"}), "NoRenewal"),
    ],
)
def test_a_doubtful_instance_is_named_with_its_fix(instance: Instance, code: str) -> None:
    (finding,) = findings(mk_service("reviews", [instance, OTHER]))

    assert (finding.code, finding.subject) == (code, "reviews.default")
    assert finding.text.startswith("1 of 2 instances ")
    assert "i1" in finding.text
    assert finding.fix


def test_instances_that_are_doubtful_alike_are_one_finding() -> None:
    """And a long list of names is cut: somebody in a hurry reads it."""
    service = mk_service("reviews", [OTHER, *(at("127.0.0.1", id=f"local-{n}") for n in range(5))])

    (finding,) = findings(service)

    assert finding.text == (
        "5 of 6 instances at a loopback address, which is another machine to every caller: "
        "local-0 at 127.0.0.1, local-1 at 127.0.0.1, local-2 at 127.0.0.1 and 2 more"
    )


def test_loopback_is_no_doubt_where_everything_is_on_one_machine() -> None:
    """A demonstration; but not if registrations of several nodes say so."""
    one, two = (at(a, id=a, provenance={"node": "n1"}) for a in ("127.0.0.1", "unix:///run/a.sock"))
    far = at("127.0.0.1", id="far", provenance={"node": "n2"})

    assert codes(mk_service("reviews", [one]), mk_service("ratings", [two])) == set()
    assert codes(mk_service("reviews", [one]), mk_service("ratings", [far])) == {"Loopback"}
    assert codes(mk_service("reviews", [one]), mk_service("ratings", [one])) == {"SharedAddress"}


def test_a_node_that_failed_is_one_finding() -> None:
    """However many services are registered on it."""
    dead = {"node": "n7", "failing_checks": "Serf Health Status, web"}
    services = [
        mk_service(name, [OTHER, at("10.0.0.7", port, health=Health.UNHEALTHY, provenance=dead)])
        for port, name in enumerate(("a", "b", "c", "d"), 8080)
    ]

    found = [f for f in findings(*services) if f.code != "SharedAddress"]

    (finding,) = found
    assert (finding.code, finding.subject) == ("FailedNode", "consul: node n7")
    assert finding.text == (
        "does not answer; 4 instances are registered on it, of a.default, b.default, c.default and 1 more"
    )


def test_one_id_in_two_registries_at_two_places() -> None:
    """Merging gives the second one its registry's name; see `isthmus.registry.merge`."""
    service = mk_service("reviews", [mk_instance(1), at("10.0.0.8", id="eureka/i1", origin="eureka")])

    assert codes(service) == {"DuplicateId"}


def test_a_socket_needs_no_port() -> None:
    assert codes(mk_service("reviews", [at("unix:///run/reviews.sock", port=0)])) == set()


def test_addresses_in_two_services_are_one_finding() -> None:
    services = (mk_service(name, [mk_instance(1), mk_instance(2)]) for name in ("reviews", "ratings"))

    (finding,) = findings(*services)

    assert (finding.code, finding.subject) == ("SharedAddress", "ratings.default, reviews.default")
    assert finding.text == "list the same 2 places: 10.0.0.1:8080, 10.0.0.2:8080"


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

    assert [f.code for f in found] == ["Quarantined", "Conflict"]
