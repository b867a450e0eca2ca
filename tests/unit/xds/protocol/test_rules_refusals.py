"""What a refusal costs: the resource that it names, until that changes, and nothing else (rules 7, 11 and 12)."""

from __future__ import annotations

import pytest

from isthmus.xds.group import Kind
from isthmus.xds.order import BOUND
from isthmus.xds.resource import Resource, TypeUrl
from tests.model.served import CDS, EDS, LDS, RDS, World, mk_resource
from tests.model.talk import DeltaTalk, SotwTalk

KINDS = [SotwTalk, DeltaTalk]


@pytest.fixture(params=KINDS)
def talk(request: pytest.FixtureRequest) -> SotwTalk | DeltaTalk:
    """A client that has two clusters with their endpoints, a listener and a route."""
    return settled(request.param)


def settled(kind: type[SotwTalk | DeltaTalk]) -> SotwTalk | DeltaTalk:
    world = World()
    for type_url, name in ((CDS, "a"), (CDS, "b"), (EDS, "a"), (EDS, "b"), (LDS, "l"), (RDS, "r")):
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


def refuse(talk: SotwTalk | DeltaTalk, type_url: TypeUrl, name: str) -> list[str]:
    """Refuse one resource of the last response, in Envoy's words, and take the others."""
    return talk.ack(type_url, error=f"Error adding/updating {type_url.short.lower()}(s) {name}: no good")


def got(talk: SotwTalk | DeltaTalk, type_url: TypeUrl) -> dict[str, Resource]:
    """What the last response of a type brought, by name."""
    return {r.name: r for r in talk.last[type_url].resources}


def parked(talk: SotwTalk | DeltaTalk, type_url: TypeUrl) -> tuple[str, ...]:
    return next(s.parked for s in talk.stream.status() if s.type_url == type_url)


def whole_or(talk: SotwTalk | DeltaTalk, sotw: str, delta: str) -> list[str]:
    """What is sent in the variant at hand."""
    return [sotw if isinstance(talk, SotwTalk) else delta]


def test_what_is_refused_by_name_stays_as_it_was_and_the_others_go_on(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12: and rule 11, the refused bytes are not sent again, whatever else is."""
    talk.put(CDS, "a", "b", content=1)
    assert refuse(talk, CDS, "a") == []
    talk.ack(EDS)
    assert parked(talk, CDS) == ("a",)
    assert talk.put(CDS, "b", content=2)[:1] == whole_or(talk, "CDS a b", "CDS b")
    assert got(talk, CDS)["b"] == mk_resource(CDS, "b", 2)
    assert got(talk, CDS).get("a") in (None, mk_resource(CDS, "a", 0))
    talk.ack(CDS, EDS)
    assert parked(talk, CDS) == ("a",)


def test_what_was_refused_is_offered_once_it_has_changed(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12."""
    talk.put(CDS, "a", content=1)
    refuse(talk, CDS, "a")
    talk.ack(EDS)
    assert talk.put(CDS, "a", content=2)[:1] == whole_or(talk, "CDS a b", "CDS a")
    assert got(talk, CDS)["a"] == mk_resource(CDS, "a", 2)
    talk.ack(CDS)
    assert parked(talk, CDS) == ()


def test_what_was_refused_goes_back_to_what_the_client_has(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 18: then there is nothing to say."""
    talk.put(CDS, "a", content=1)
    refuse(talk, CDS, "a")
    talk.ack(EDS)
    assert talk.put(CDS, "a", content=0) == []
    assert parked(talk, CDS) == ()


def test_a_new_resource_that_is_refused_is_left_out(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12: the client has no earlier one to go on with."""
    assert talk.put(CDS, "c") == whole_or(talk, "CDS a b c", "CDS c")
    assert refuse(talk, CDS, "c") == []
    assert talk.put(CDS, "b", content=1)[:1] == whole_or(talk, "CDS a b", "CDS b")
    talk.ack(CDS, EDS)
    assert talk.put(CDS, "c", content=1) == whole_or(talk, "CDS a b c", "CDS c")


def test_what_was_refused_goes_as_others_do(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12: the client still has the one before."""
    talk.put(CDS, "a", content=1)
    refuse(talk, CDS, "a")
    talk.ack(EDS)
    talk.world.remove(EDS, "a")
    gone = talk.remove(CDS, "a")
    assert gone == (["CDS b"] if isinstance(talk, SotwTalk) else ["CDS -a", "EDS -a"])


def test_what_it_has_accepted_before_is_not_parked(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12: a response that is the whole truth names it though it has not changed; left out, it would be deleted."""
    talk.put(CDS, "b", content=1)
    refuse(talk, CDS, "a")
    talk.ack(EDS)
    assert talk.put(CDS, "b", content=2)[:1] == whole_or(talk, "CDS a b", "CDS b")


def test_endpoints_that_were_refused_are_sent_as_they_were_with_a_changed_cluster(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 12 and 37: neither the refused ones, nor none."""
    talk.put(EDS, "a", content=1)
    refuse(talk, EDS, "a")
    assert talk.put(CDS, "a", content=1)[1:] == ["EDS a"]
    assert got(talk, EDS) == {"a": mk_resource(EDS, "a", 0)}


def test_endpoints_that_are_refused_while_their_cluster_changes(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 11 and 37: those in flight are not sent once more for the sake of the cluster."""
    talk.put(EDS, "a", content=1)
    talk.put(CDS, "a", content=1)
    assert refuse(talk, EDS, "a") == ["EDS a"]
    assert got(talk, EDS) == {"a": mk_resource(EDS, "a", 0)}


def test_a_listener_that_is_refused_keeps_its_clusters(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 12 and 35: it was to use a new cluster and goes on with the old one, which stays until it is mended, bounded."""
    for type_url in (CDS, EDS):
        talk.world.put(type_url, "c")
        talk.world.remove(type_url, "a")
    talk.put(LDS, "l", content="uses c")
    assert talk.ack(CDS) == ["LDS l"]
    assert refuse(talk, LDS, "l") == []
    assert talk.stream.wake_at == talk.now + BOUND
    assert talk.wait(BOUND - 1) == []
    assert talk.put(LDS, "l", content="uses c, and is well") == ["LDS l"]
    assert talk.ack(LDS)[:1] == whole_or(talk, "CDS b c", "CDS -a")


def test_a_new_stream_knows_of_no_refusal() -> None:
    """Rules 12 and 20: it is offered once more; what the client has from before stays when that is refused again."""
    before = settled(SotwTalk)
    version = before.last[CDS].version
    before.put(CDS, "a", content=1)
    again = SotwTalk(before.world)
    assert again.ask(CDS, version=version) == ["CDS a b"]
    assert refuse(again, CDS, "a") == []
    assert again.put(CDS, "b", content=1) == ["CDS a b"]


def test_a_new_stream_knows_of_no_refusal_in_delta() -> None:
    """Rules 12 and 29: what the client has from before is told to go when it does, and is not sent in any other way."""
    world = settled(DeltaTalk).world
    world.put(CDS, "a", 1)
    world.put(EDS, "a", 1)
    world.publish()
    again = DeltaTalk(world)
    old = {t: {n: mk_resource(t, n, 0).version for n in "ab"} for t in (CDS, EDS)}
    assert again.ask(CDS, held=old[CDS]) == ["CDS a"]
    assert again.ask(EDS, ["a", "b"], held=old[EDS]) == ["EDS a"]
    assert refuse(again, CDS, "a") == []
    assert refuse(again, EDS, "a") == []
    assert again.put(CDS, "a", content=2) == ["CDS a"], (
        "its endpoints are not known here, and those refused are not sent"
    )
    again.ack(CDS)
    again.world.remove(EDS, "a")
    again.remove(CDS, "a")
    assert again.wait(BOUND) == ["CDS -a", "EDS -a"]


def test_all_that_is_asked_for_anew_is_offered_anew() -> None:
    """Rule 22: also what was refused before."""
    talk = DeltaTalk(settled(DeltaTalk).world)
    talk.ask(CDS, ["a"])
    refuse(talk, CDS, "a")
    assert talk.ask(CDS, ["*"]) == ["CDS a b"]


@pytest.mark.parametrize("mk_talk", KINDS)
def test_a_response_refused_whole_is_due_once_more_without_what_is_named(
    mk_talk: type[SotwTalk | DeltaTalk],
) -> None:
    """An Envoy that finds one field against the rules takes nothing of the response, and the good ones must not be lost."""
    world = World()
    world.put(CDS, "good")
    world.put(CDS, "bad")
    world.publish()
    talk = mk_talk(world)
    talk.ask(CDS)
    refusal = (
        'Proto constraint validation failed (ClusterValidationError.ConnectTimeout: value must be greater): name: "bad"'
    )
    assert talk.ack(CDS, error=refusal) == ["CDS good"]
    assert parked(talk, CDS) == ("bad",)
    assert talk.ack(CDS) == []
    assert talk.stream.status()[0].error.startswith("Proto constraint"), "the refusal is shown for as long as it lasts"
    assert "bad" in talk.put(CDS, "bad", content=1)[0]
    assert parked(talk, CDS) == ()


def test_grpc_has_taken_the_rest() -> None:
    """gRFC A46, whatever the text looks like."""
    world = World()
    world.put(CDS, "a")
    world.put(CDS, "b")
    world.publish()
    grpc = SotwTalk(world, Kind.GRPC)
    grpc.ask(CDS, ["a", "b"])
    assert grpc.ack(CDS, error='cluster "a": field connect_timeout error:invalid') == []
