"""Incremental xDS, rule by rule."""

from __future__ import annotations

import pytest

from isthmus.xds.protocol.response import Outcome
from isthmus.xds.protocol.subscription import ProtocolError
from isthmus.xds.resource import TypeUrl
from tests.model.served import CDS, EDS, LDS, World
from tests.model.talk import DeltaTalk


@pytest.fixture
def talk() -> DeltaTalk:
    """Two clusters with endpoints; nothing has been asked for yet."""
    world = World()
    for type_url in (CDS, EDS):
        world.put(type_url, "a")
        world.put(type_url, "b")
    world.publish()
    return DeltaTalk(world)


def versions(talk: DeltaTalk, type_url: TypeUrl) -> dict[str, str]:
    return {r.name: r.version for r in talk.world.resources[type_url].values()}


def test_only_what_changed_is_sent(talk: DeltaTalk) -> None:
    assert talk.ask(CDS) == ["CDS a b"]
    talk.ack(CDS)
    assert talk.put(CDS, "b", content=1) == ["CDS b"]
    talk.ack(CDS)
    assert talk.remove(CDS, "a") == ["CDS -a"]


@pytest.mark.parametrize("nonce", ["", "stale"])
def test_a_subscription_is_changed_whatever_the_nonce(talk: DeltaTalk, nonce: str) -> None:
    """Rule 21: a stale nonce must not reject the request."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS)
    talk.request(EDS, ["b"], nonce=nonce)
    assert talk.sent() == ["EDS b"]


def test_a_refusal_may_ask_for_more(talk: DeltaTalk) -> None:
    """Rule 21; what was refused is not sent again (rule 11)."""
    talk.ask(EDS, ["a"])
    received = talk.request(EDS, ["b"], nonce=talk.last[EDS].nonce, error="no")
    assert (received.outcome, received.error) == (Outcome.NACKED, "no")
    assert talk.sent() == ["EDS b"]


def test_a_stale_nonce_settles_nothing(talk: DeltaTalk) -> None:
    talk.ask(EDS, ["a"])
    received = talk.request(EDS, nonce="stale")
    assert (received.outcome, received.settled) == (Outcome.STALE, None)
    assert talk.put(EDS, "a", content=1) == []


def test_the_first_request_with_a_nonce_settles_it(talk: DeltaTalk) -> None:
    talk.ask(EDS, ["a"])
    talk.ack(EDS, error="no")
    assert talk.request(EDS, nonce=talk.last[EDS].nonce).outcome is Outcome.SUBSCRIBED
    assert talk.stream.status()[0].error == "no"


def test_nothing_is_sent_after_a_refusal_until_something_changes(talk: DeltaTalk) -> None:
    """Rule 11."""
    talk.ask(CDS)
    assert talk.ack(CDS, error="a: no, b: no") == []
    assert talk.wait(3600) == []
    assert talk.put(CDS, "a", content=1) == ["CDS a"]


def test_a_name_asked_for_again_is_sent_again(talk: DeltaTalk) -> None:
    """Rule 22: the client may have forgotten it (envoyproxy/go-control-plane#1450)."""
    talk.ask(EDS, ["a", "b"])
    talk.ack(EDS)
    assert talk.ask(EDS, ["a"]) == ["EDS a"]


def test_everything_asked_for_again_is_sent_again(talk: DeltaTalk) -> None:
    talk.ask(CDS, ["*"])
    talk.ack(CDS)
    assert talk.ask(CDS, ["*"]) == ["CDS a b"]


def test_an_unknown_name_is_answered_and_remembered(talk: DeltaTalk) -> None:
    """Rule 23: the client need not wait, and gets it when it appears (envoyproxy/go-control-plane#488, #565)."""
    assert talk.ask(EDS, ["a", "z"]) == ["EDS a -z"]
    talk.ack(EDS)
    assert talk.put(EDS, "z") == ["EDS z"]
    talk.ack(EDS)
    assert talk.remove(EDS, "z") == ["EDS -z"]


def test_what_the_client_does_not_know_is_not_removed(talk: DeltaTalk) -> None:
    """Rule 24."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS)
    assert talk.remove(EDS, "b") == []


def test_what_came_and_went_unseen_is_not_mentioned(talk: DeltaTalk) -> None:
    talk.ask(CDS)
    assert talk.put(CDS, "c") == []
    assert talk.remove(CDS, "c") == []
    assert talk.put(CDS, "a", content=1) == []
    assert talk.put(CDS, "a", content=0) == []
    assert talk.ack(CDS) == []


def test_unsubscribing_is_not_answered(talk: DeltaTalk) -> None:
    """Rule 25, also for names never asked for."""
    talk.ask(EDS, ["a", "b"])
    talk.ack(EDS)
    assert talk.ask(EDS, drop=["a", "phantom"]) == []
    assert talk.put(EDS, "a", content=1) == []


def test_leaving_a_name_that_the_wildcard_covers_is_answered(talk: DeltaTalk) -> None:
    """Rule 25: with the resource, or with its removal."""
    assert talk.ask(CDS, ["*", "a", "z"]) == ["CDS a b -z"]
    talk.ack(CDS)
    assert talk.ask(CDS, drop=["a", "z"]) == ["CDS a -z"]


def test_the_legacy_wildcard_goes_on_when_names_are_added(talk: DeltaTalk) -> None:
    """Rule 26."""
    talk.ask(CDS)
    talk.ack(CDS)
    assert talk.ask(CDS, ["a"]) == ["CDS a"]
    talk.ack(CDS)
    assert talk.put(CDS, "b", content=1) == ["CDS b"]


def test_leaving_the_wildcard_keeps_names(talk: DeltaTalk) -> None:
    """Rule 26 (envoyproxy/go-control-plane#558)."""
    talk.ask(CDS, ["*", "a"])
    talk.ack(CDS)
    assert talk.ask(CDS, drop=["*"]) == []
    assert talk.put(CDS, "a", "b", content=1) == ["CDS a"]


def test_a_client_that_leaves_everything_and_comes_back_is_freed_of_what_is_gone(talk: DeltaTalk) -> None:
    """A response on its way while the client left and came back may reach it when it wants everything again."""
    talk.ask(CDS)
    talk.request(CDS, drop=["*"])
    talk.remove(CDS, "a")
    talk.request(CDS, ["*"])
    assert talk.ack(CDS) == ["CDS b -a"]


def test_the_first_wildcard_request_is_answered_even_if_empty(talk: DeltaTalk) -> None:
    """Rule 27: an Envoy waits for it before it starts to serve."""
    assert talk.ask(LDS) == ["LDS"]
    assert talk.last[LDS].is_initial


def test_endpoints_without_names_are_not_answered(talk: DeltaTalk) -> None:
    assert talk.ask(EDS) == []


def test_a_client_that_comes_back_is_told_the_difference(talk: DeltaTalk) -> None:
    """Rule 29: what changed and what is gone; otherwise it would keep it for ever (istio/istio#41494)."""
    held = versions(talk, LDS) | versions(talk, CDS)
    talk.put(CDS, "b", content=1)
    talk.remove(CDS, "a")
    talk.put(CDS, "c")
    talk.ask(LDS, held={"l": "any"})
    talk.ask("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", ["r"])
    assert talk.ask(CDS, held=held) == ["CDS b c"]
    talk.ack(TypeUrl.ROUTE, LDS)
    assert talk.ack(CDS) == ["CDS -a"]


@pytest.mark.parametrize(("type_url", "names"), [(CDS, []), (CDS, ["a", "b"]), (EDS, ["a", "b"])])
def test_a_client_that_comes_back_with_everything_is_sent_nothing(
    talk: DeltaTalk, type_url: TypeUrl, names: list[str]
) -> None:
    """Rules 20 and 29, also where the type is named (envoyproxy/envoy#22418)."""
    assert talk.ask(type_url, names, held=versions(talk, type_url)) == []
    status = talk.stream.status()[0]
    assert status.sent == status.acked != ""
    assert talk.put(type_url, "a", content=1) == [f"{type_url.short} a"]


def test_versions_count_only_in_the_first_request(talk: DeltaTalk) -> None:
    """Rule 21."""
    talk.ask(EDS, ["a"])
    talk.ack(EDS)
    assert talk.ask(EDS, ["b"], held=versions(talk, EDS)) == ["EDS b"]


def test_too_many_versions(talk: DeltaTalk) -> None:
    with pytest.raises(ProtocolError, match="initial_resource_versions; at most 100000"):
        talk.ask(CDS, held={str(i): "v" for i in range(100_001)})


def test_a_type_that_is_not_served_has_nothing(talk: DeltaTalk) -> None:
    """Its names are answered, so that the client need not wait."""
    type_url = "type.googleapis.com/example.Other"
    assert talk.ask(type_url, ["s"]) == [f"{type_url} -s"]
    assert talk.put(CDS, "s") == []
