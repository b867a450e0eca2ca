"""What a refusal costs: the resource that it names, until that changes, and nothing else (rules 7, 11 and 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from isthmus.xds.group import Kind
from isthmus.xds.order import BOUND
from isthmus.xds.protocol.parking import TRIES
from isthmus.xds.protocol.refusal import named_in
from isthmus.xds.resource import Resource, TypeUrl
from tests.model.served import CDS, EDS, LDS, RDS, World, mk_resource
from tests.model.talk import DeltaTalk, SotwTalk

KINDS = [SotwTalk, DeltaTalk]
AnyTalk = TypeVar("AnyTalk", SotwTalk, DeltaTalk)


@pytest.fixture(params=KINDS)
def talk(request: pytest.FixtureRequest) -> SotwTalk | DeltaTalk:
    """A client that has two clusters with their endpoints, a listener and a route."""
    return settled(SotwTalk) if request.param is SotwTalk else settled(DeltaTalk)


def settled(kind: type[AnyTalk]) -> AnyTalk:
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


def test_what_was_refused_when_it_was_asked_for_anew_is_told_to_go() -> None:
    """Rules 12 and 24: the client may have kept what it had before it asked."""
    talk = settled(DeltaTalk)
    talk.world.put(CDS, "a", 1)
    talk.stream.update(talk.world.publish())
    assert talk.ask(CDS, ["a"])[0] == "CDS a"
    refuse(talk, CDS, "a")
    assert talk.remove(CDS, "a") == ["CDS -a"]


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


def test_what_is_refused_after_it_has_gone_was_never_there() -> None:
    """Rules 12 and 20: the version of what comes later is that of a client which has nothing else."""
    world = settled(SotwTalk).world
    talk, fresh = SotwTalk(world), SotwTalk(world)
    talk.ask(EDS, ["a"])
    talk.remove(EDS, "a")
    assert refuse(talk, EDS, "a") == []
    assert talk.put(EDS, "a", content=1) == ["EDS a"]
    fresh.publish()
    fresh.ask(EDS, ["a"])
    assert talk.last[EDS].version == fresh.last[EDS].version


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


def test_a_listener_that_stays_refused_keeps_its_clusters_for_the_bound(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35: a client that is never content does not keep them for ever."""
    talk.put(LDS, "l", content="no good")
    refuse(talk, LDS, "l")
    talk.world.remove(EDS, "a")
    assert talk.remove(CDS, "a") == []
    assert talk.wait(BOUND)[:1] == whole_or(talk, "CDS b", "CDS -a")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ("Error adding/updating cluster(s) outbound|80||a: no good, b: no good", {"outbound|80||a", "b"}),
        ("Error adding/updating listener(s) 10.0.0.1_80: cannot bind '10.0.0.1:80'", {"10.0.0.1_80"}),
        (
            'errors validating CDS response: [cluster "b": no good, resource outbound|80||a. ...]',
            {"outbound|80||a", "b"},
        ),
        ('Proto constraint validation failed (Cluster.ConnectTimeout): name: "b"\nconnect_timeout {}', {"b"}),
        ("none of ours: outbound|80||ab bb", set()),
    ],
)
def test_names_in_a_text(error: str, named: set[str]) -> None:
    """Rule 12: as clients write them; a name that is a part of another one does not stand there."""
    assert set(named_in(error, ["outbound|80||a", "b", "10.0.0.1_80"])) == named


def test_what_was_refused_whole_is_sent_again_without_what_is_named(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 12: an Envoy that finds a field against the rules takes nothing of the response, and its text says so."""
    talk.put(CDS, "a", "b", content=1)
    again = talk.ack(CDS, error='Proto constraint validation failed (Cluster.ConnectTimeout): name: "a"')
    assert again[:1] == whole_or(talk, "CDS a b", "CDS b")
    assert got(talk, CDS)["b"] == mk_resource(CDS, "b", 1)
    assert got(talk, CDS).get("a") in (None, mk_resource(CDS, "a", 0))


WHOLLY = 'Proto constraint validation failed (Field): name: "{}"'


def test_a_response_refused_whole_leaves_unknown_names_unanswered(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 12, 23 and 39: they are told once more, for the client did not hear of them."""
    other = type(talk)(talk.world)
    assert other.ask(EDS, ["a", "z"]) == ["EDS a -z"]
    assert other.ack(EDS, error=WHOLLY.format("a")) == ["EDS -z"]


def test_a_response_refused_whole_leaves_a_cluster_without_its_endpoints(talk: SotwTalk | DeltaTalk) -> None:
    """Rules 12 and 37: they have not changed, and the changed cluster still waits for them."""
    talk.world.put(EDS, "b", 1)
    assert talk.put(CDS, "a", content=1)[1:] == ["EDS a b"]
    assert talk.ack(EDS, error=WHOLLY.format("b")) == ["EDS a"]


def test_what_has_gone_from_a_list_refused_whole_is_told_to_who_asked_for_it() -> None:
    """Rules 12 and 17: nothing of the list was taken, so the client still waits for an answer."""
    world = settled(SotwTalk).world
    talk = SotwTalk(world)
    assert talk.ask(CDS, ["a", "b"]) == ["CDS a b"]
    assert talk.remove(CDS, "b") == []
    assert talk.ack(CDS, error=WHOLLY.format("a")) == ["CDS -b"]
    assert talk.ack(CDS) == []


def test_a_list_refused_whole_and_in_vain_is_not_repeated() -> None:
    """Rules 11 and 12: it would name again what a client that came back may have an older one of, and be refused again."""
    before = settled(SotwTalk)
    version = before.last[CDS].version
    before.put(CDS, "a", content=1)
    talk = SotwTalk(before.world)
    assert talk.ask(CDS, version=version) == ["CDS a b"]
    assert talk.ack(CDS, error=WHOLLY.format("a")) == []


def test_a_response_refused_whole_for_what_has_been_asked_for_anew() -> None:
    """Rules 12 and 22: what else it brought is due as well."""
    talk = settled(DeltaTalk)
    talk.put(CDS, "a", "b", content=1)
    talk.delta.receive(DeltaDiscoveryRequest(type_url=CDS, resource_names_subscribe=["a"]), talk.now)
    assert talk.ack(CDS, error=WHOLLY.format("a")) == ["CDS a b"]


def test_a_new_stream_knows_of_no_refusal() -> None:
    """Rules 12 and 20: it is offered once more, and what the client has from before is not taken from it."""
    before = settled(SotwTalk)
    version = before.last[CDS].version
    before.put(CDS, "a", content=1)
    again = SotwTalk(before.world)
    assert again.ask(CDS, version=version) == ["CDS a b"]
    assert refuse(again, CDS, "a") == []
    assert again.put(CDS, "b", content=1) == ["CDS a b"]


def test_what_a_new_stream_saw_refused_is_nothing_to_go_on_with() -> None:
    """Rules 12 and 20: the client has an older one. So it is offered when it comes back, and not in place of the next one."""
    before = settled(SotwTalk)
    version = before.last[CDS].version
    before.put(CDS, "a", content=1)
    again = SotwTalk(before.world)
    again.ask(CDS, version=version)
    refuse(again, CDS, "a")
    assert again.put(CDS, "a", content=2) == ["CDS a b"]
    assert refuse(again, CDS, "a") == []
    assert again.put(CDS, "b", content=1) == ["CDS a b"]
    assert got(again, CDS)["a"] == mk_resource(CDS, "a", 2)
    assert refuse(again, CDS, "a") == []
    assert again.put(CDS, "a", content=1) == ["CDS a b"]


def test_what_was_refused_and_then_accepted_is_gone_on_with() -> None:
    """Rule 12, for a client that has asked for names in place of everything, and may have had them before."""
    talk = settled(SotwTalk)
    talk.ask(CDS, ["a", "b"])
    talk.put(CDS, "c")
    assert talk.ask(CDS, ["a", "b", "c"]) == ["CDS a b c"]
    assert refuse(talk, CDS, "c") == []
    assert talk.put(CDS, "b", content=1)[:1] == ["CDS a b c"]
    talk.ack(CDS, EDS)
    assert talk.put(CDS, "c", content=1) == ["CDS a b c"]
    assert refuse(talk, CDS, "c") == []
    assert parked(talk, CDS) == ("c",)


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


def without_name(talk: SotwTalk | DeltaTalk, type_url: TypeUrl, is_bad: Callable[[Resource], bool]) -> int:
    """Answer until nothing more is sent; what brings something bad is refused without a name. Returns how often."""
    refused = 0
    answered: set[str] = set()
    while (last := talk.last[type_url]).nonce not in answered:
        answered.add(last.nonce)
        bad = any(map(is_bad, last.resources))
        refused += bad
        talk.ack(type_url, error="malformed IP address: x" if bad else None)
        assert refused <= TRIES, "for ever"
    return refused


@pytest.mark.parametrize("type_url", [CDS, EDS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_that_names_nothing_holds_up_what_is_bad_alone(kind: type[AnyTalk], type_url: TypeUrl) -> None:
    """Rules 11 and 12: Envoy names nothing if an address among endpoints is malformed, and may have taken none of the others."""
    names = [f"n{number}" for number in range(50)]
    talk = kind(World())
    talk.put(type_url, *names)
    talk.ask(type_url, names)
    talk.ack(type_url)
    bad = {mk_resource(type_url, "n17", 1), mk_resource(type_url, "n42", 1)}

    talk.put(type_url, *names, content=1)
    assert 10 < without_name(talk, type_url, bad.__contains__) < 25

    stream = talk.stream
    told = {n: r.version for n in names if (r := stream.told(type_url, n))}
    assert told == {n: mk_resource(type_url, n, 0 if n in ("n17", "n42") else 1).version for n in names}
    assert stream.status()[0].parked == ("n17", "n42")
    assert set(got(talk, type_url)) <= set(names)
    assert talk.put(type_url, "n3", content=2)[0].split()[-1] in ("n3", "n9")
    talk.ack(type_url)
    assert "n17" in talk.put(type_url, "n17", content=2)[0].split()


def test_who_refuses_everything_without_a_name_is_asked_so_often_and_no_more(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 11."""
    talk.put(EDS, "a", "b", content=1)
    assert without_name(talk, EDS, lambda _: True) == 3
    many = type(talk)(World())
    names = [f"n{number}" for number in range(500)]
    many.put(EDS, *names)
    many.ask(EDS, names)
    assert without_name(many, EDS, lambda _: True) == TRIES
    assert many.wait(3600) == []


def test_what_may_have_been_taken_in_spite_of_a_refusal_is_sent_when_it_is_as_before(
    talk: SotwTalk | DeltaTalk,
) -> None:
    """Rule 12: which of several was refused is not known, so none is known to be as it was."""
    talk.put(EDS, "a", "b", content=1)
    talk.request(EDS, ["a", "b"], nonce=talk.last[EDS].nonce, error="no")
    assert talk.put(EDS, "a", "b", content=0) == ["EDS a b"]


def test_removals_wait_together_while_listeners_stand_refused(talk: SotwTalk | DeltaTalk) -> None:
    """Rule 35: each set of clusters goes when its own bound is over, also if there was one just before."""
    for name in "cde":
        talk.put(CDS, name)
        talk.ack(CDS)
    talk.put(LDS, "l", content="no good")
    refuse(talk, LDS, "l")
    for name in "abc":
        assert talk.remove(CDS, name) == []
        talk.wait(1)
    assert talk.wait(BOUND - 3) != []
    talk.ack(CDS)
    assert talk.wait(1) != []
    talk.ack(CDS)
    assert talk.wait(1) != []
    talk.ack(CDS)
    assert {n for n in "abcde" if talk.stream.told(CDS, n)} == {"d", "e"}
