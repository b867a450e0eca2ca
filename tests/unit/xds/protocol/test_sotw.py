"""State of the world, rule by rule (the xDS protocol page's, and those that issue threads taught)."""

from __future__ import annotations

import pytest

from isthmus.xds.group import Kind
from isthmus.xds.protocol.response import Outcome
from isthmus.xds.resource import TypeUrl
from tests.model.served import CDS, EDS, LDS, RDS, World
from tests.model.talk import SotwTalk


@pytest.fixture
def talk() -> SotwTalk:
    """Two clusters with endpoints; nothing has been asked for yet."""
    world = World()
    for type_url in (CDS, EDS):
        world.put(type_url, "a")
        world.put(type_url, "b")
    world.publish()
    return SotwTalk(world)


def test_each_response_has_type_version_and_a_nonce_of_its_own(talk: SotwTalk) -> None:
    """Rule 9."""
    talk.ask(CDS)
    first = talk.last[CDS]
    talk.ack(CDS)
    talk.put(CDS, "c")
    second = talk.last[CDS]
    assert first.type_url == second.type_url == CDS
    assert first.nonce != second.nonce
    assert first.version != second.version


def test_only_error_detail_refuses(talk: SotwTalk) -> None:
    """Rule 10: a refusal may bear the current version, an acknowledgement is one whatever its version."""
    talk.ask(CDS)
    first = talk.last[CDS]
    refusal = talk.request(CDS, nonce=first.nonce, version=first.version, error="cluster a is bad")
    assert (refusal.outcome, refusal.error, refusal.settled) == (Outcome.NACKED, "cluster a is bad", first)
    talk.put(CDS, "c")
    assert talk.request(CDS, nonce=talk.last[CDS].nonce, version="").outcome is Outcome.ACKED


def test_the_first_request_with_a_nonce_settles_it(talk: SotwTalk) -> None:
    """A later one with the same nonce asks for more, and does not turn a refusal into an acknowledgement."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS, error="no")
    received = talk.request(EDS, ["a", "b"], nonce=talk.last[EDS].nonce)
    assert (received.outcome, received.settled) == (Outcome.SUBSCRIBED, None)
    assert talk.stream.status()[0].error == "no"


@pytest.mark.parametrize("type_url", [CDS, EDS])
def test_nothing_is_sent_after_a_refusal_until_something_changes(talk: SotwTalk, type_url: TypeUrl) -> None:
    """Rule 11: resending is a hot loop (envoyproxy/go-control-plane#46, #962)."""
    talk.ask(type_url, ["a", "b"])
    assert talk.ack(type_url, error="a: no, b: no") == []
    assert talk.put(LDS, "unrelated") == []
    assert talk.wait(3600) == []
    assert talk.put(type_url, "a", content=1) in (["CDS a"], ["EDS a"])


def test_a_new_name_is_answered_after_a_refusal(talk: SotwTalk) -> None:
    """Rule 11: a new subscription is a reason to send, but not what was refused."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS, error="no")
    assert talk.ask(EDS, ["a", "b"]) == ["EDS b"]


def test_a_stale_nonce_is_not_answered(talk: SotwTalk) -> None:
    """Rule 13: the answer to the response in flight brings the list once more."""
    talk.ask(EDS, ["a"])
    old = talk.last[EDS].nonce
    talk.ack(EDS)
    talk.put(EDS, "a", content=1)
    received = talk.request(EDS, ["a", "b"], nonce=old)
    assert (received.outcome, received.settled) == (Outcome.STALE, None)
    assert talk.sent() == []
    assert talk.ack(EDS) == ["EDS b"]


def test_a_stale_nonce_with_nothing_in_flight_is_ignored_wholly(talk: SotwTalk) -> None:
    talk.ask(EDS, ["a"])
    talk.ack(EDS)
    talk.request(EDS, ["a", "b"], nonce="of no response")
    assert talk.sent() == []
    assert talk.stream.status()[0].subscribed == 1


def test_what_a_client_drops_and_asks_for_again_while_a_response_crosses(talk: SotwTalk) -> None:
    """Rules 13 and 14: both its lists are stale, and it has forgotten what was missing in the first."""
    talk.ask(EDS, ["a", "b"])
    old = talk.last[EDS].nonce
    talk.ack(EDS)
    talk.put(EDS, "b", content=1)
    talk.request(EDS, ["b"], nonce=old)
    talk.request(EDS, ["a", "b"], nonce=old)
    assert talk.ack(EDS) == ["EDS a"]


def test_an_empty_nonce_is_never_stale(talk: SotwTalk) -> None:
    """Rule 13: a client's request may cross a response; the names count and nothing is settled (envoyproxy/envoy#10363)."""
    talk.ask(EDS, ["a"])
    received = talk.request(EDS, ["a", "b"])
    assert (received.outcome, received.settled) == (Outcome.SUBSCRIBED, None)
    assert talk.sent() == []
    assert talk.ack(EDS) == ["EDS b"]


def test_the_first_nonce_of_a_stream_may_be_anothers(talk: SotwTalk) -> None:
    assert talk.request(CDS, nonce="from the stream before").outcome is Outcome.SUBSCRIBED
    assert talk.sent() == ["CDS a b"]


def test_a_name_asked_for_again_is_sent_again(talk: SotwTalk) -> None:
    """Rule 14: the client forgot it when it unsubscribed (envoyproxy/go-control-plane#431, grpc/grpc-java#9632)."""
    talk.ask(EDS, ["a", "b"])
    talk.ack(EDS)
    assert talk.ask(EDS, ["b"]) == []
    assert talk.ask(EDS, ["a", "b"]) == ["EDS a"]


def test_clusters_are_sent_complete_and_endpoints_in_part(talk: SotwTalk) -> None:
    """Rule 15."""
    talk.ask(CDS)
    talk.ask(EDS, ["a", "b"])
    talk.ack(CDS, EDS)
    assert talk.put(EDS, "b", content=1) == ["EDS b"]
    talk.ack(EDS)
    assert talk.put(CDS, "b", content=1) == ["CDS a b", "EDS b"]


def test_the_last_listener_goes_by_an_empty_response(talk: SotwTalk) -> None:
    """Rule 15: absence is deletion."""
    talk.put(LDS, "l")
    assert talk.ask(LDS) == ["LDS l"]
    talk.ack(LDS)
    assert talk.remove(LDS, "l") == ["LDS"]


def test_endpoints_that_vanish_cannot_be_told(talk: SotwTalk) -> None:
    """Rule 15: nor are they sent again when they come back as they were; the client has kept them."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS)
    assert talk.remove(EDS, "a") == []
    assert talk.put(EDS, "a") == []
    assert talk.put(EDS, "a", content=1) == ["EDS a"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_unknown_clusters_and_listeners_are_answered_at_once(talk: SotwTalk, type_url: TypeUrl) -> None:
    """Rule 17: with what exists, and later with the name itself."""
    assert talk.ask(type_url, ["z"]) == [f"{type_url.short} -z"]
    assert talk.last[type_url].resources == ()
    talk.ack(type_url)
    assert talk.put(type_url, "z") == [f"{type_url.short} z"]


def test_unknown_routes_are_remembered(talk: SotwTalk) -> None:
    """Rule 17: silence, until it appears; then it is a change and not an answer."""
    assert talk.ask(RDS, ["z"]) == []
    assert talk.put(RDS, "z") == ["RDS z"]
    assert not talk.last[RDS].is_initial


def test_unknown_endpoints_are_answered(talk: SotwTalk) -> None:
    """Rule 39: an Envoy whose cluster has just gone would wait 15 s for them, and withhold its acknowledgement of clusters."""
    assert talk.ask(EDS, ["z"]) == ["EDS -z"]
    talk.ack(EDS)
    assert talk.put(EDS, "z") == ["EDS z"]


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS])
def test_grpc_is_told_what_does_not_exist(type_url: TypeUrl) -> None:
    """Rule 33: a library without a proxy takes errors by name, and would else wait 15 s."""
    talk = SotwTalk(World(), Kind.GRPC)
    assert talk.ask(type_url, ["z"]) == [f"{type_url.short} -z"]
    talk.ack(type_url)
    assert talk.ask(type_url, ["z"]) == []
    assert talk.put(type_url, "z") == [f"{type_url.short} z"]


def test_a_plain_acknowledgement_is_not_answered(talk: SotwTalk) -> None:
    """Rule 18; nor is the same list once more."""
    talk.ask(CDS)
    assert talk.ack(CDS) == []
    assert talk.ask(CDS) == []


def test_no_name_twice_in_a_response(talk: SotwTalk) -> None:
    """Rule 19: a client must refuse that."""
    assert talk.ask(EDS, ["b", "a", "b"]) == ["EDS a b"]


@pytest.mark.parametrize(("type_url", "names"), [(CDS, []), (CDS, ["a"]), (EDS, ["b", "a"]), (EDS, ["a", "z"])])
def test_a_client_that_comes_back_with_everything_is_sent_nothing(
    talk: SotwTalk, type_url: TypeUrl, names: list[str]
) -> None:
    """Rule 20: the version is the content's, so also another replica knows it."""
    talk.ask(type_url, names)
    version = talk.last[type_url].version
    talk.world.put(LDS, "unrelated")
    talk.world.publish()
    again = SotwTalk(talk.world)
    assert again.ask(type_url, names, version=version) == []
    status = again.stream.status()[0]
    assert (status.sent, status.acked, status.in_flight) == (version, version, False)
    assert again.put(type_url, "a", content=1) != []


def test_a_client_that_comes_back_with_less_is_sent_what_it_asks_for(talk: SotwTalk) -> None:
    """Rule 20: other names, or another content, make another version."""
    talk.ask(EDS, ["a"])
    version = talk.last[EDS].version
    assert SotwTalk(talk.world).ask(EDS, ["a", "b"], version=version) == ["EDS a b"]
    talk.put(EDS, "a", content=1)
    assert SotwTalk(talk.world).ask(EDS, ["a"], version=version) == ["EDS a"]


def test_the_version_is_that_of_all_that_the_client_has(talk: SotwTalk) -> None:
    """A partial response's version is the same as that of a client that is sent everything at once."""
    talk.ask(EDS, ["a", "b"])
    talk.ack(EDS)
    talk.put(EDS, "b", content=1)
    fresh = SotwTalk(talk.world)
    fresh.ask(EDS, ["a", "b"])
    assert talk.last[EDS].version == fresh.last[EDS].version


def test_a_type_that_is_not_served_is_never_answered(talk: SotwTalk) -> None:
    assert talk.ask("type.googleapis.com/example.Other", ["s"]) == []
    assert talk.put(CDS, "s") == []


def test_a_star_for_clusters_beside_names(talk: SotwTalk) -> None:
    """Rule 16."""
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    talk.ack(CDS)
    assert talk.ask(CDS, ["*", "a"]) == ["CDS a b"]
    talk.ack(CDS)
    assert talk.ask(CDS, ["a"]) == []
    assert talk.put(CDS, "b", content=1) == []


def test_names_end_the_legacy_wildcard(talk: SotwTalk) -> None:
    """Rule 16 (envoyproxy/go-control-plane#855): an empty list then means nothing."""
    talk.ask(CDS)
    talk.ack(CDS)
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    talk.ack(CDS)
    assert talk.ask(CDS, []) == []
    assert talk.put(CDS, "a", content=1) == []
