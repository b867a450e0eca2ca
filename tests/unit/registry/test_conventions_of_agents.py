"""What Isthmus' agent says in metadata, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.conventions import (
    EPOCH,
    LOCALITY,
    PORTS,
    WEIGHT,
    DeclaredPort,
    labels_of,
    read,
    shape,
    to_locality,
    to_ports,
)
from isthmus.registry.conventions.agent import parse_ports
from isthmus.registry.model import Instance, Locality, Port, Protocol, Service, ServiceKey

WEB = DeclaredPort("web", 9080, 19080, Protocol.HTTP)
ADMIN = DeclaredPort("admin", 9090, 9090, Protocol.TCP)


def mk_service(*instances: tuple[str, Mapping[str, str]]) -> tuple[Service, list[tuple[str, str]]]:
    """A service as a registry with one port tells it, shaped by what its instances' metadata say."""
    port = Port("http", 80, Protocol.HTTP)
    service = Service(
        ServiceKey("default", "reviews"),
        (port,),
        tuple(Instance(id_, "dc1", "10.0.0.1", {"http": 19080}, weight=5) for id_, _ in instances),
    )
    saids = {id_: read((), (), metadata) for id_, metadata in instances}
    return shape(service, "http", saids, 20000)


def metadata(*ports: DeclaredPort, **more: str) -> dict[str, str]:
    return {PORTS: to_ports(ports), EPOCH: "7", "version": "v1"} | more


def test_declared_ports_stand_in_place_of_those_that_the_registry_tells() -> None:
    service, remarks = mk_service(("a", metadata(WEB, ADMIN)))
    assert service.ports == (Port("web", 9080, Protocol.HTTP), Port("admin", 9090, Protocol.TCP))
    assert service.instances[0].ports == {"web": 19080, "admin": 9090}
    assert remarks == []


def test_an_instance_that_declares_nothing_is_called_at_its_port_under_the_declared_name() -> None:
    service, remarks = mk_service(("a", metadata(WEB, ADMIN)), ("b", {}))
    assert service.instances[1].ports == {"web": 19080}
    assert service.ports == (Port("web", 9080, Protocol.HTTP), Port("admin", 9090, Protocol.TCP))
    assert remarks == []


def test_where_instances_contradict_each_other_the_first_is_followed_and_it_is_said() -> None:
    other = DeclaredPort("web", 9081, 9081, Protocol.GRPC)
    service, remarks = mk_service(("a", metadata(WEB)), ("b", metadata(other)))
    assert service.ports == (Port("web", 9080, Protocol.HTTP),)
    assert service.instances[1].ports == {"web": 9081}
    assert remarks == [("port web", "instances disagree: 9080/http as web is used, not 9081/grpc as web")]


def test_weight_and_locality_are_what_is_declared() -> None:
    place = Locality("eu", "eu-1", "rack7")
    service, _ = mk_service(("a", metadata(WEB, **{WEIGHT: "0", LOCALITY: to_locality(place)})), ("b", {}))
    assert [i.weight for i in service.instances] == [0, 5]
    assert service.instances[0].locality == place


def test_the_agents_own_keys_are_no_labels() -> None:
    """So a restart, which has another epoch, changes nothing that any proxy is told."""
    said = metadata(WEB)
    assert read((), (), said).labels == {"version": "v1"}
    assert labels_of(said) == {"version": "v1"}
    assert labels_of({"isthmus-note": "by hand"}) == {"isthmus-note": "by hand"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "expected NAME=NUMBER"),
        ("http", "expected NAME=NUMBER"),
        ("http=0/http", "port numbers are from 1 to 65535"),
        ("http=80:70000/http", "port numbers are from 1 to 65535"),
        ("http=80/gopher", "gopher"),
        ("http=80/http,http=81/http", "there twice"),
        ("a=80/http,b=80/http", "there twice"),
        (",".join(f"p{n}={n}/tcp" for n in range(1, 40)), "at most 32"),
        ("http=\u0668\u0660/http", "expected NAME=NUMBER"),
    ],
)
def test_ports_that_make_no_sense_are_remarked_and_change_nothing(said: str, reason: str) -> None:
    service, remarks = mk_service(("a", {PORTS: said}))
    read_ = read((), (), {PORTS: said})
    assert service.ports == (Port("http", 80, Protocol.HTTP),)
    assert reason in read_.remarks[0][1]
    assert remarks == []


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
numbers = st.integers(1, 65535)
declared = st.lists(
    st.builds(DeclaredPort, names, numbers, numbers, st.sampled_from(Protocol)),
    min_size=1,
    max_size=8,
    unique_by=(lambda p: p.name, lambda p: p.number),
)


@given(declared)
def test_what_is_written_is_read(ports: list[DeclaredPort]) -> None:
    assert list(parse_ports(to_ports(ports))) == ports


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert len(read((), (), {PORTS: text}).remarks) <= 1
