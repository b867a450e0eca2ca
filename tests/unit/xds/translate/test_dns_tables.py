"""The names that the agent's DNS answers."""

from __future__ import annotations

from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from msgspec.structs import replace

from isthmus.registry.model import Catalog, Conflict, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.group import Kind, ProxyGroup
from isthmus.xds.resource import TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, translate
from isthmus.xds.translate.dns_tables import to_dns_view
from isthmus.xds.translate.views import Views

AGENT = ProxyGroup(Kind.AGENT)
SHARED, OWN = MeshSettings().shared_address, "127.64.9.9"
HTTP, TCP = Port("http", 80, Protocol.HTTP), Port("db", 5432, Protocol.TCP)


def mk(name: str, *ports: Port, hostnames: tuple[str, ...] = (), namespace: str = "default") -> Service:
    instances = (Instance("i", "o", "10.0.0.1", {p.name: p.number for p in ports}),)
    return Service(ServiceKey(namespace, name), ports, instances, frozenset(hostnames))


def mesh(*services: Service, **virtual_ips: str) -> Mesh:
    addresses = {ServiceKey("default", name): address for name, address in virtual_ips.items()}
    return Mesh(Catalog({s.key: s for s in services}), virtual_ips=addresses)


def names(views: Views) -> dict[str, dict[str, tuple[str, ...]]]:
    """Resource to host names to addresses."""
    tables = {n: DnsTable.FromString(r.body) for n, r in views.make(AGENT).of_type(TypeUrl.DNS_TABLE).items()}
    return {
        n: {
            d.name: tuple(d.endpoint.address_list.address)
            for d in table.virtual_domains
            if d.endpoint.HasField("address_list")
        }
        for n, table in tables.items()
    }


def test_all_names_of_a_service_have_its_address() -> None:
    """Its own, where it has one; otherwise that which all HTTP services share."""
    views = Views(translate(mesh(mk("web", HTTP, hostnames=("web.example", "*.web.example")), mk("db", TCP), db=OWN)))
    assert names(views) == {
        "web.default.mesh": dict.fromkeys(
            ("web.default.mesh", "web.default", "web", "web.example", "*.web.example"), (SHARED,)
        ),
        "db.default.mesh": dict.fromkeys(("db.default.mesh", "db.default", "db"), (OWN,)),
    }


def test_a_service_of_both_kinds_has_one_address() -> None:
    views = Views(translate(mesh(mk("web", HTTP, TCP), web=OWN)))
    assert set(names(views)["web.default.mesh"]) == {"web.default.mesh", "web.default", "web"}
    assert {a for found in names(views)["web.default.mesh"].values() for a in found} == {OWN}


def test_ports_are_told_by_name() -> None:
    views = Views(translate(mesh(mk("web", HTTP, TCP), web=OWN)))
    table = DnsTable.FromString(views.make(AGENT).of_type(TypeUrl.DNS_TABLE)["web.default.mesh"].body)
    (domain,) = (d for d in table.virtual_domains if d.endpoint.HasField("service_list"))
    assert domain.name == "web.default.mesh"
    found = {s.service_name: (s.protocol.name, s.targets[0].port) for s in domain.endpoint.service_list.services}
    assert found == {"http": ("tcp", 80), "db": ("tcp", 5432)}


def test_a_service_that_cannot_be_reached_has_no_name() -> None:
    """It speaks TCP and was given no address: whoever asks is told that there is nobody, not to try where nobody listens."""
    views = Views(translate(mesh(mk("db", TCP), mk("bare"))))
    assert names(views) == {}


def test_a_name_that_nobody_can_ask_for_is_left_out() -> None:
    long = ".".join(["a" * 60] * 5)
    views = Views(translate(mesh(mk("web", HTTP, hostnames=(long,)))))
    assert set(names(views)["web.default.mesh"]) == {"web.default.mesh", "web.default", "web"}


def test_a_name_belongs_to_one_service_whatever_it_speaks() -> None:
    """The stronger claim has it: `db` is the first one's own name, and an alias of the others."""
    first, second = mk("db", TCP), mk("b", HTTP, hostnames=("db", "both"))
    third = mk("c", TCP, hostnames=("both",))
    views = Views(translate(mesh(first, second, third, db="127.64.9.1", c="127.64.9.3")))
    found = names(views)
    assert found["db.default.mesh"]["db"] == ("127.64.9.1",)
    assert "db" not in found["b.default.mesh"]
    assert found["b.default.mesh"]["both"] == (SHARED,)
    assert "both" not in found["c.default.mesh"]
    assert views.conflicts == (
        Conflict("host name both in DNS", "b.default", "c.default"),
        Conflict("host name db in DNS", "db.default", "b.default"),
    )


def test_what_is_known_to_conflict_is_said_once() -> None:
    """Two HTTP services with one alias are a conflict of routes already."""
    views = Views(translate(mesh(mk("a", HTTP, hostnames=("x",)), mk("b", HTTP, hostnames=("x",)))))
    assert "x" not in names(views)["b.default.mesh"]
    assert not views.conflicts


def test_a_name_that_becomes_free_is_taken_over() -> None:
    a, b = mk("a", TCP, hostnames=("x",)), mk("b", TCP, hostnames=("x",))
    first = translate(mesh(a, b, a="127.64.9.1", b="127.64.9.2"))
    views = Views(first)
    assert "x" not in names(views)["b.default.mesh"]
    views = views.next(translate(mesh(replace(a, hostnames=frozenset()), b, a="127.64.9.1", b="127.64.9.2"), first))
    assert names(views)["b.default.mesh"]["x"] == ("127.64.9.2",)
    assert not views.conflicts


def test_instances_come_and_go_without_a_change() -> None:
    first = translate(mesh(mk("web", HTTP)))
    view = to_dns_view(first)
    views = Views(first)
    before = views.make(AGENT)
    second = translate(mesh(replace(mk("web", HTTP), instances=())), first)
    assert views.next(second).make(AGENT) is before
    after = to_dns_view(second, view, second.affected)
    assert after.resources is view.resources or after.resources == view.resources
    assert not any((after.changed or {}).values())


def test_an_agent_is_told_names_and_nothing_else() -> None:
    snapshot = Views(translate(mesh(mk("web", HTTP)))).make(AGENT)
    assert {t for t in TypeUrl if snapshot.of_type(t)} == {TypeUrl.DNS_TABLE}
