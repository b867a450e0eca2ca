"""The order between the types of one stream: make before break."""

from __future__ import annotations

import pytest

from isthmus.xds.order import BOUND
from isthmus.xds.protocol.stream import TYPES_LIMIT, ProtocolError
from tests.model.served import CDS, EDS, LDS, RDS, World
from tests.model.talk import DeltaTalk, SotwTalk

ALL = (CDS, EDS, LDS, RDS)


KINDS = [SotwTalk, DeltaTalk]


@pytest.fixture(params=KINDS)
def talk(request: pytest.FixtureRequest) -> SotwTalk | DeltaTalk:
    return settled(request.param)


def settled(kind: type[SotwTalk | DeltaTalk]) -> SotwTalk | DeltaTalk:
    """A stream that has taken one cluster `a`, its endpoints, a listener and a route, and acknowledged all of it.

    It is subscribed to the endpoints of `b` as well, and to the route `r`.
    """
    world = World()
    for type_url, name in ((CDS, "a"), (EDS, "a"), (LDS, "l"), (RDS, "r")):
        world.put(type_url, name)
    world.publish()
    talk = kind(world)
    talk.ask(CDS)
    talk.ask(EDS, ["a", "b"])
    talk.ack(CDS, EDS)
    talk.ask(LDS)
    talk.ask(RDS, ["r"])
    talk.ack(LDS, RDS)
    return talk


def types(sent: list[str]) -> list[str]:
    return [s.split()[0] for s in sent]


def put_all(talk: SotwTalk | DeltaTalk, cluster: str, content: int) -> list[str]:
    """Add or change a cluster with its endpoints, and a listener and a route that use it."""
    talk.world.put(CDS, cluster, content)
    talk.world.put(EDS, cluster, content)
    talk.world.put(LDS, "l", content)
    talk.world.put(RDS, "r", content)
    return talk.publish()


def test_types_are_sent_in_order(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35; a cluster that is only changed holds nothing up."""
    assert types(put_all(talk, "a", 1)) == ["CDS", "EDS", "LDS", "RDS"]


def test_listeners_and_routes_wait_until_new_clusters_are_warm(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 36: Envoy acknowledges clusters when they are warm; endpoints do not wait."""
    assert types(put_all(talk, "b", 1)) == ["CDS", "EDS"]
    assert talk.ack(EDS) == []
    assert types(talk.ack(CDS)) == ["LDS", "RDS"]


def test_an_addition_that_cannot_be_sent_yet_is_waited_for(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35: a second update of clusters while the first is in flight."""
    assert types(talk.put(CDS, "a", content=5)) == ["CDS", "EDS"]
    assert put_all(talk, "b", 1) == []
    assert types(talk.ack(EDS)) == ["EDS"]
    assert types(talk.ack(CDS)) == ["CDS"]
    assert types(talk.ack(CDS, EDS)) == ["EDS", "LDS", "RDS"]


def test_waiting_for_clusters_is_bounded(talk: SotwTalk | DeltaTalk) -> None:
    """An Envoy that never warms a cluster gets its routes all the same. Rule 35."""
    put_all(talk, "b", 1)
    assert talk.stream.wake_at == talk.now + BOUND
    assert talk.wait(BOUND - 0.1) == []
    assert types(talk.wait(0.1)) == ["LDS", "RDS"]
    assert talk.stream.wake_at is None


def test_refused_clusters_are_not_waited_for(talk: SotwTalk | DeltaTalk) -> None:
    """The other clusters of the response are taken (rule 12), and are of use."""
    put_all(talk, "b", 1)
    assert types(talk.ack(CDS, error="no")) == ["LDS", "RDS"]


def test_a_changed_cluster_takes_its_endpoints_with_it(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 37: they have not changed, and an Envoy waits 15 s for them (envoyproxy/envoy#13009)."""
    assert talk.put(CDS, "a", content=1)[1:] == ["EDS a"]
    assert not talk.last[EDS].is_initial


def test_an_added_cluster_takes_endpoints_that_were_sent_before(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 37: the subscription may have been there first."""
    assert talk.put(EDS, "b") == ["EDS b"]
    talk.ack(EDS)
    assert talk.put(CDS, "b")[1:] == ["EDS b"]


def test_other_endpoints_are_not_sent_with_a_changed_cluster(talk: SotwTalk | DeltaTalk) -> None:
    talk.put(EDS, "b")
    talk.ack(EDS)
    assert talk.put(CDS, "a", content=1)[1:] == ["EDS a"]


def test_endpoints_in_flight_are_sent_again_after_their_cluster(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 37: those in flight may have come before the cluster; they are due when they are settled."""
    assert talk.put(EDS, "a", content=1) == ["EDS a"]
    assert types(talk.put(CDS, "a", content=1)) == ["CDS"]
    assert talk.ack(EDS) == ["EDS a"]
    assert talk.ack(EDS) == []


def test_changed_endpoints_alone_touch_no_other_type(talk: SotwTalk | DeltaTalk) -> None:
    assert talk.put(EDS, "a", content=1) == ["EDS a"]


def drop_a(talk: SotwTalk | DeltaTalk) -> list[str]:
    """Cluster `a` goes, and the listener and route change to do without it."""
    talk.world.remove(CDS, "a")
    talk.world.remove(EDS, "a")
    talk.world.put(LDS, "l", "without a")
    talk.world.put(RDS, "r", "without a")
    return talk.publish()


GONE = {SotwTalk: ["CDS"], DeltaTalk: ["CDS -a", "EDS -a"]}


def test_a_cluster_goes_when_nothing_uses_it_any_more(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35: listeners and routes first, and acknowledged."""
    assert types(drop_a(talk)) == ["LDS", "RDS"]
    assert talk.ack(LDS) == []
    assert talk.ack(RDS) == GONE[type(talk)]
    assert talk.stream.wake_at is None


def test_a_cluster_that_is_leaving_stays_in_the_list(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35, state of the world: others may be added meanwhile, and the version is that of what was sent."""
    drop_a(talk)
    talk.world.put(EDS, "b")
    assert talk.put(CDS, "b") == (["CDS a b", "EDS b"] if isinstance(talk, SotwTalk) else ["CDS b", "EDS b"])
    if isinstance(talk, SotwTalk):
        fresh = SotwTalk(talk.world)
        fresh.ask(CDS)
        kept = talk.last[CDS].version
        assert kept != fresh.last[CDS].version
        talk.ack(CDS, LDS, RDS)
        assert talk.last[CDS].version == fresh.last[CDS].version


def test_a_cluster_that_comes_back_before_it_went_is_not_mentioned(talk: SotwTalk | DeltaTalk) -> None:
    drop_a(talk)
    talk.world.put(EDS, "a")
    assert talk.put(CDS, "a") == []
    assert talk.ack(LDS, RDS) == []
    assert talk.stream.wake_at is None


def test_waiting_to_withdraw_a_cluster_is_bounded(talk: SotwTalk | DeltaTalk) -> None:
    """A client that refuses or never answers its routes keeps the cluster no longer than that. Rule 35."""
    drop_a(talk)
    talk.ack(LDS)
    assert talk.ack(RDS, error="no") == []
    assert talk.stream.wake_at == talk.now + BOUND
    assert talk.wait(BOUND) == GONE[type(talk)]
    assert talk.stream.wake_at is None


def test_each_withdrawal_has_its_own_time_to_wait(talk: SotwTalk | DeltaTalk) -> None:
    """One that is overdue does not take along a cluster that has only just been dropped. Rule 35."""
    talk.put(CDS, "b")
    talk.ack(CDS)
    drop_a(talk)
    assert talk.wait(BOUND - 1) == []
    talk.remove(CDS, "b")
    gone = talk.wait(1)
    assert gone[0] == ("CDS b" if isinstance(talk, SotwTalk) else "CDS -a")
    assert talk.ack(CDS) == []
    assert talk.wait(BOUND - 1) == (["CDS"] if isinstance(talk, SotwTalk) else ["CDS -b"])


def test_types_that_were_not_asked_for_hold_nothing_up() -> None:
    """A client of clusters alone."""
    world = World()
    world.put(CDS, "a")
    world.publish()
    talk = DeltaTalk(world)
    talk.ask(CDS)
    talk.ack(CDS)
    assert talk.remove(CDS, "a") == ["CDS -a"]


def test_a_client_that_comes_back_keeps_clusters_until_its_routes_are_known() -> None:
    """What it routed to before is in use until it has asked for its listeners and routes, and been answered."""
    talk = DeltaTalk(World())
    assert talk.ask(CDS, held={"a": "old"}) == []
    assert talk.stream.wake_at == talk.now + BOUND
    assert talk.ask(LDS, held={"l": "old"}) == ["LDS -l"]
    assert talk.ack(LDS) == []
    assert talk.ask(RDS, ["r"], held={"r": "old"}) == ["RDS -r"]
    assert talk.ack(RDS) == ["CDS -a"]


def test_a_client_that_comes_back_and_has_no_routes_loses_clusters_after_the_bound() -> None:
    talk = DeltaTalk(World())
    talk.ask(CDS, held={"a": "old"})
    assert talk.wait(BOUND) == ["CDS -a"]


@pytest.mark.parametrize("first", [CDS, EDS])
def test_endpoints_are_sent_after_clusters_that_a_client_comes_back_to(first: str) -> None:
    """Rule 38, in whatever order it asks: it has the endpoints, but the cluster is new to it (envoyproxy/envoy#33607)."""
    world = World()
    for type_url in (CDS, EDS):
        world.put(type_url, "a", 1)
        world.put(type_url, "b", 1)
    world.publish()
    talk = DeltaTalk(world)
    clusters = {"a": world.resources[CDS]["a"].version, "b": "old"}
    endpoints = {n: r.version for n, r in world.resources[EDS].items()}
    sent: list[str] = []
    for type_url in (CDS, EDS) if first == CDS else (EDS, CDS):
        held = clusters if type_url == CDS else endpoints
        sent += talk.ask(type_url, ["a", "b"] if type_url == EDS else [], held=held)
    assert sent == ["CDS b", "EDS b"]


def test_clusters_are_answered_before_endpoints() -> None:
    """Rule 38: when both are pending."""
    world = World()
    for type_url in (CDS, EDS):
        world.put(type_url, "a")
    world.publish()
    talk = SotwTalk(world)
    talk.request(EDS, ["a"])
    talk.request(CDS)
    assert talk.sent() == ["CDS a", "EDS a"]


def test_at_most_one_response_of_a_type_is_in_flight(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 42: what happens meanwhile is sent as one."""
    assert talk.put(EDS, "a", content=1) == ["EDS a"]
    assert talk.put(EDS, "a", content=2) == []
    assert talk.put(EDS, "b", content=3) == []
    assert talk.ack(EDS) == ["EDS a b"]


def test_pushes_of_one_change_have_one_nonce_on_all_streams(talk: SotwTalk | DeltaTalk) -> None:
    """So that they share their bytes; answers to subscriptions are told apart from them."""
    other = type(talk)(talk.world)
    other.ask(CDS)
    other.ack(CDS)
    assert other.last[CDS].is_initial
    talk.put(CDS, "b")
    other.publish()
    assert not other.last[CDS].is_initial
    assert other.last[CDS].nonce == talk.last[CDS].nonce


def test_a_generation_beyond_the_log_is_compared_in_full(talk: SotwTalk | DeltaTalk) -> None:
    talk.world.put(EDS, "a", 1)
    talk.world.publish()
    talk.world.forget_log()
    talk.stream.update(talk.world.snapshot)
    assert talk.sent() == ["EDS a"]


def test_status_follows_the_client(talk: SotwTalk | DeltaTalk) -> None:
    """What `proxy-status` shows: sent and acknowledged, by version and generation, and the last refusal."""
    talk.put(EDS, "a", content=1)
    generation = talk.world.snapshot.generation
    clusters, endpoints = talk.stream.status()[:2]
    assert (clusters.wildcard, clusters.in_flight) == (True, False)
    assert clusters.sent_generation == clusters.acked_generation == generation
    assert (endpoints.subscribed, endpoints.in_flight) == (2, True)
    assert endpoints.sent_generation == generation > endpoints.acked_generation
    talk.ack(EDS, error="no")
    endpoints = talk.stream.status()[1]
    assert (endpoints.error, endpoints.in_flight) == ("no", False)
    assert endpoints.acked != endpoints.sent
    talk.put(EDS, "a", content=2)
    talk.ack(EDS)
    endpoints = talk.stream.status()[1]
    assert (endpoints.error, endpoints.acked) == ("", endpoints.sent)
    assert endpoints.acked_generation == talk.world.snapshot.generation


def test_a_request_without_a_type_ends_the_stream(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 2."""
    with pytest.raises(ProtocolError, match="no type_url"):
        talk.ask("")


def test_too_many_types_end_the_stream(talk: SotwTalk | DeltaTalk) -> None:
    for i in range(TYPES_LIMIT - len(ALL)):
        talk.ask(f"type.googleapis.com/example.T{i}", ["n"])
    with pytest.raises(ProtocolError, match=f"at most {TYPES_LIMIT}"):
        talk.ask("type.googleapis.com/example.One", ["n"])
