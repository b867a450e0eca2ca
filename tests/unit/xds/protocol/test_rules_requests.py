"""Requests that cross responses and each other, and those that few clients send."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, ResourceLocator

from isthmus.xds.group import Kind
from isthmus.xds.order import BOUND
from isthmus.xds.protocol.response import Outcome
from isthmus.xds.resource import TypeUrl
from tests.model.served import CDS, EDS, LDS, RDS, World, mk_resource
from tests.model.talk import DeltaTalk, SotwTalk

VHDS = TypeUrl.VIRTUAL_HOST


@pytest.fixture
def world() -> World:
    """Two clusters with endpoints, a listener and a route."""
    world = World()
    for type_url, name in ((CDS, "a"), (CDS, "b"), (EDS, "a"), (EDS, "b"), (LDS, "l"), (RDS, "r")):
        world.put(type_url, name)
    world.publish()
    return world


@pytest.fixture(params=[SotwTalk, DeltaTalk])
def talk(request: pytest.FixtureRequest, world: World) -> SotwTalk | DeltaTalk:
    """A client that has all of it, and is subscribed to the endpoints of `c` as well."""
    talk: SotwTalk | DeltaTalk = request.param(world)
    talk.ask(CDS)
    talk.ask(EDS, ["a", "b", "c"])
    talk.ack(CDS, EDS)
    talk.ask(LDS)
    talk.ask(RDS, ["r"])
    talk.ack(LDS, RDS)
    return talk


def test_a_nonce_belongs_to_its_type(world: World) -> None:
    """Rule 5: that of another type's response settles nothing."""
    talk = SotwTalk(world)
    talk.ask(CDS)
    talk.ask(EDS, ["a"])
    assert talk.request(EDS, ["a"], nonce=talk.last[CDS].nonce).outcome is Outcome.STALE
    assert [s.in_flight for s in talk.stream.status()] == [True, True]
    talk.ack(CDS)
    assert [s.in_flight for s in talk.stream.status()] == [False, True]


def test_types_have_their_own_versions(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 5: what changes in one is nothing to the others."""
    before = {s.type_url: s.sent for s in talk.stream.status()}
    talk.put(EDS, "a", content=1)
    after = {s.type_url: s.sent for s in talk.stream.status()}
    assert {t for t in before if before[t] != after[t]} == {EDS}


def test_the_last_of_several_requests_counts(world: World) -> None:
    """Rule 8: each list supersedes the one before, and one answer does for all."""
    talk = SotwTalk(world)
    talk.ask(EDS, ["a"])
    nonce = talk.last[EDS].nonce
    for names in (["a", "b"], ["a", "b", "c"], ["b"]):
        talk.request(EDS, names)
    assert talk.sent() == []
    talk.request(EDS, ["b"], nonce=nonce)
    assert talk.sent() == ["EDS b"]
    assert talk.ack(EDS) == []


def test_grpc_never_means_everything(world: World) -> None:
    """Rule 16: a client that has given up all its names may come back with an empty list (grpc/grpc-go#7013)."""
    talk = SotwTalk(world, Kind.GRPC)
    assert talk.ask(CDS) == []
    assert talk.ask(LDS) == []
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    talk.ack(CDS)
    assert talk.ask(CDS, []) == []
    assert talk.put(CDS, "a", "c", content=1) == []


def test_routes_are_never_meant_as_a_whole(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 16: an empty list of any other type wants nothing."""
    other = type(talk)(talk.world)
    assert other.ask(RDS) == []
    assert other.put(RDS, "r", content=1) == []


def test_virtual_hosts_are_not_sent_before_they_are_asked_for(world: World) -> None:
    """Rule 30: Envoy's first request names none and must not be sent all of them (envoyproxy/go-control-plane#1323)."""
    world.resources[VHDS] = {n: mk_resource(VHDS, n) for n in ("all/a.example", "all/b.example")}
    world.publish()
    talk = DeltaTalk(world)
    assert talk.ask(VHDS) == []
    assert talk.ask(VHDS, ["all/a.example"]) == ["VHDS all/a.example"]
    talk.ack(VHDS)
    assert talk.ask(VHDS, ["all/c.example"]) == ["VHDS -all/c.example"]


@pytest.mark.parametrize("first", [[], ["*"]], ids=["nothing", "everything"])
def test_clusters_on_demand(world: World, first: list[str]) -> None:
    """Rule 30: single names, alone or beside everything, and their endpoints once they are asked for."""
    talk = DeltaTalk(world)
    if first:
        talk.ask(CDS, first)
        talk.ack(CDS)
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    assert talk.ask(EDS, ["a"]) == ["EDS a"]
    talk.ack(CDS, EDS)
    assert talk.ask(CDS, ["z"]) == ["CDS -z"]
    talk.ack(CDS)
    assert talk.put(CDS, "z") == ["CDS z"]


def test_names_are_names_whatever_they_look_like(world: World) -> None:
    """Rule 31: those of xdstp are not taken apart, and a glob, which nobody is offered, is told to match nothing."""
    one, every = (f"xdstp://mesh/envoy.config.endpoint.v3.ClusterLoadAssignment/{n}" for n in ("a", "*"))
    world.put(EDS, one)
    world.publish()
    assert DeltaTalk(world).ask(EDS, [one, every]) == [f"EDS {one} -{every}"]


def test_dynamic_parameters_are_ignored(world: World) -> None:
    """Rule 32: they change neither what is subscribed to nor what is sent."""
    located = [ResourceLocator(name="b", dynamic_parameters={"env": "prod"})]
    sotw, delta = SotwTalk(world), DeltaTalk(world)
    sotw.sotw.receive(DiscoveryRequest(type_url=EDS, resource_names=["a"], resource_locators=located), 0)
    delta.delta.receive(
        DeltaDiscoveryRequest(
            type_url=EDS,
            resource_names_subscribe=["a"],
            resource_locators_subscribe=located,
            resource_locators_unsubscribe=located,
        ),
        0,
    )
    assert sotw.sent() == delta.sent() == ["EDS a"]


@pytest.mark.parametrize("type_url", [CDS, LDS, RDS])
def test_an_error_is_told_once(world: World, type_url: TypeUrl) -> None:
    """Rule 33: until the name is asked for anew, or is there."""
    talk = SotwTalk(world, Kind.GRPC)
    known = "r" if type_url is RDS else "l" if type_url is LDS else "a"
    assert talk.ask(type_url, ["z"]) == [f"{type_url.short} -z"]
    talk.ack(type_url)
    assert talk.ask(type_url, [known, "z"]) == [f"{type_url.short} {known}"]
    talk.ack(type_url)
    assert talk.ask(type_url, [known]) == []
    assert talk.ask(type_url, [known, "z"])[0].endswith("-z")


def test_clusters_change_once_more_before_they_are_acknowledged(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 36, 37 and 42: after the endpoints have been, the second change takes its endpoints along as the first did."""
    for type_url in (CDS, EDS):
        talk.world.put(type_url, "c")
    assert [w.split()[0] for w in talk.put(LDS, "l", content="uses c")] == ["CDS", "EDS"]
    assert talk.put(CDS, "a", content=1) == []
    assert talk.ack(EDS) == []
    first, *others = talk.ack(CDS)
    assert first == ("CDS a b c" if isinstance(talk, SotwTalk) else "CDS a")
    assert others == ["EDS a", "LDS l"]
    assert talk.ack(CDS, EDS, LDS) == []


def test_clusters_change_once_more_while_their_endpoints_are_on_their_way(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 36, 37 and 42: acknowledged in the other order."""
    assert talk.put(CDS, "a", content=1)[1:] == ["EDS a"]
    assert talk.put(CDS, "a", content=2) == []
    assert [w.split()[0] for w in talk.ack(CDS)] == ["CDS"]
    assert talk.ack(EDS) == ["EDS a"]


def test_a_listener_that_changes_leaves_its_routes_alone(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 40: Envoy keeps routes that it knows."""
    assert talk.put(LDS, "l", content=1) == ["LDS l"]


def test_some_of_the_names_are_enough(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 41: a request that leaves some of what there is unnamed is answered (envoyproxy/go-control-plane#349)."""
    other = type(talk)(talk.world)
    assert other.ask(EDS, ["b"]) == ["EDS b"]
    assert other.ask(RDS, ["r"]) == ["RDS r"]


def test_what_grpc_does_from_its_first_request_to_its_last(world: World) -> None:
    """Rules 2 and 52: the sequence that grpcio was seen to follow."""
    talk = SotwTalk(world, Kind.GRPC)
    assert talk.ask(LDS, ["l"]) == ["LDS l"]
    assert talk.ack(LDS) == []
    assert talk.ask(RDS, ["r"]) == ["RDS r"]
    assert talk.ack(RDS) == []
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    assert talk.ask(EDS, ["a"]) == ["EDS a"]
    assert talk.ack(CDS, EDS) == []
    assert talk.put(EDS, "a", content=1) == ["EDS a"]
    talk.ack(EDS)
    for type_url in (LDS, RDS, CDS, EDS):
        assert talk.ask(type_url, [], version=talk.last[type_url].version) == []
    assert talk.put(CDS, "a", content=1) == []


def test_clusters_of_a_client_that_comes_back_stay_for_its_listeners(world: World) -> None:
    """Rules 20 and 35, state of the world: until the listeners and routes that it routes by are known, bounded."""
    talk = SotwTalk(world)
    talk.ask(CDS)
    version = talk.last[CDS].version
    world.remove(EDS, "a")
    world.remove(CDS, "a")
    world.publish()
    back = SotwTalk(world)
    assert back.ask(CDS, version=version) == ["CDS b"], "what it has is not known here, so nothing can be kept for it"
    kept = DeltaTalk(world)
    assert kept.ask(CDS, held={"a": "any", "b": world.resources[CDS]["b"].version}) == []
    assert kept.wait(BOUND) == ["CDS -a"]


def test_endpoints_of_a_cluster_that_is_to_go_are_not_sent_again() -> None:
    """Rules 29 and 37: what the client has is not renewed by a first response that leaves its cluster as it is."""
    world = World()
    world.put(CDS, "b")
    world.put(EDS, "a")
    world.publish()
    talk = DeltaTalk(world)
    assert talk.ask(CDS, held={"a": "any"}) == ["CDS b"]
    assert talk.ask(EDS, ["a"], held={"a": world.resources[EDS]["a"].version}) == []


def test_routes_that_are_never_asked_for_are_waited_for_once() -> None:
    """Rule 35: when the bound is over, clusters that go later go at once."""
    world = World()
    for name in "ab":
        world.put(CDS, name)
    world.publish()
    talk = DeltaTalk(world)
    assert talk.ask(CDS, held={n: r.version for n, r in world.resources[CDS].items()}) == []
    assert talk.remove(CDS, "a") == []
    assert talk.wait(BOUND) == ["CDS -a"]
    talk.ack(CDS)
    assert talk.remove(CDS, "b") == ["CDS -b"]
