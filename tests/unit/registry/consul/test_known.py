"""What is known of one Consul: which answers are news, and what a snapshot says."""

from __future__ import annotations

from isthmus.registry.consul.answers import Entry, Listing, Node, ServiceEntry
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.parse import Rules
from isthmus.registry.model import Origin, ServiceKey


def mk_known(*names: str) -> Known:
    known = Known(Origin("dc1", "consul"), Rules())
    known.heard_list(mk_names(*names), 10, False)
    return known


def mk_names(*names: str) -> dict[str, frozenset[str]]:
    return {name: frozenset() for name in names}


def mk_listing(name: str, *nodes: str, port: int = 80) -> Listing:
    return Listing(tuple(Entry(Node(n, "10.0.0.1"), ServiceEntry(name, name, port=port)) for n in nodes))


def key(name: str) -> ServiceKey:
    return ServiceKey("default", name)


def test_a_changed_listing_is_news_and_an_equal_one_is_not() -> None:
    known = mk_known("web")
    assert known.heard_service("web", mk_listing("web", "n1"), 11, False, 1)
    assert known.take().changed == frozenset({key("web")})
    assert not known.heard_service("web", mk_listing("web", "n1"), 12, False, 2)
    assert not known.news
    assert known.heard_service("web", mk_listing("web", "n1", "n2"), 13, False, 3)
    assert known.news
    assert known.changed_at("web") == 3


def test_a_snapshot_that_was_taken_does_not_change_any_more() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1"), 11, False, 1)
    before = known.take()
    known.heard_service("api", mk_listing("api", "n1"), 12, False, 1)
    known.heard_list(mk_names("api"), 13, False)
    assert set(before.services) == {key("web")}
    after = known.take()
    assert set(after.services) == {key("api")}
    assert after.changed == frozenset({key("web"), key("api")})
    assert after.cursor == "13"


def test_what_is_listed_no_longer_is_forgotten_and_a_late_answer_does_not_bring_it_back() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1"), 11, False, 1)
    change = known.heard_list(mk_names(), 12, False)
    assert change.gone == {"web"}
    assert not known.heard_service("web", mk_listing("web", "n1"), 11, False, 2)
    assert known.take().services == {}


def test_new_names_and_other_tags_are_touched() -> None:
    known = mk_known("web", "api")
    names = {"web": frozenset({"v2"}), "api": frozenset[str](), "new": frozenset[str]()}
    assert known.heard_list(names, 11, False).touched == {"web", "new"}


def test_it_is_complete_when_each_listed_service_was_read() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web"), 11, False, 1)
    assert not known.complete
    known.heard_list(mk_names("web"), 12, False)
    assert known.complete


def test_a_service_whose_own_answer_is_filtered_is_in_doubt_alone_until_one_is_not() -> None:
    known = mk_known("web", "api")
    known.heard_service("api", mk_listing("api", "n1"), 11, False, 1)
    known.heard_service("web", mk_listing("web", "n1"), 11, True, 1)
    first = known.take()
    assert (first.doubt, set(first.doubts)) == ("", {key("web")})
    known.heard_service("web", mk_listing("web", "n1"), 11, False, 2)
    assert known.news
    last = known.take()
    assert not last.doubts
    assert last.changed is not None
    assert set(last.changed) == {key("web")}


def test_an_answer_that_cannot_tell_leaves_the_doubt_as_it_was() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web"), 11, True, 1)
    known.heard_service("web", mk_listing("web", "n1"), 12, None, 2)
    assert set(known.take().doubts) == {key("web")}


def test_all_is_in_doubt_while_the_list_cannot_tell() -> None:
    known = mk_known("web")
    assert known.take().doubt == ""
    known.heard_list(mk_names("web"), 12, None)
    assert known.news
    assert "token" in known.take().doubt


def test_what_a_filtered_list_lacks_stays_until_it_is_asked_for() -> None:
    known = mk_known("hidden", "gone")
    for name in known.names:
        known.heard_service(name, mk_listing(name, "n1"), 11, False, 1)
    known.take()

    change = known.heard_list(mk_names(), 12, True)
    assert change.missing == {"hidden", "gone"}
    assert not change.gone
    before = known.take()
    assert set(before.services) == {key("hidden"), key("gone")}
    assert before.unlisted

    known.heard_service("hidden", mk_listing("hidden"), 12, True, 2)
    known.heard_service("gone", mk_listing("gone"), 12, False, 2)
    after = known.take()
    assert (after.services, set(after.doubts)) == ({}, {key("hidden")})
    assert after.changed is not None
    assert set(after.changed) == {key("hidden"), key("gone")}
    assert known.heard_list(mk_names(), 13, True).missing == frozenset()

    known.heard_service("hidden", mk_listing("hidden"), 14, False, 3)
    assert known.news
    end = known.take()
    assert (end.services, end.doubts) == ({}, {})


def test_a_list_that_is_not_filtered_any_more_ends_every_doubt_about_what_it_lacks() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1"), 11, False, 1)
    known.heard_list(mk_names(), 12, True)
    known.heard_service("web", mk_listing("web"), 12, True, 2)
    known.take()
    assert known.heard_list(mk_names(), 13, False).gone == {"web"}
    end = known.take()
    assert (end.doubts, end.unlisted) == ({}, "")


def test_what_an_earlier_reading_knew_and_a_filtered_list_lacks_is_asked_for_before_it_is_complete() -> None:
    known = Known(Origin("dc1", "consul"), Rules(), frozenset({"web", "api"}))
    assert known.heard_list(mk_names("web"), 10, True).gone == frozenset()
    known.heard_service("web", mk_listing("web", "n1"), 11, False, 1)
    assert not known.complete
    known.heard_service("api", mk_listing("api"), 11, True, 1)
    assert known.complete
    assert set(known.take().doubts) == {key("api")}


def test_an_answer_that_cannot_tell_is_to_be_confirmed_when_it_lacks_an_instance() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1", "n2"), 11, False, 1)
    assert known.is_to_be_confirmed("web", mk_listing("web", "n1"))
    assert not known.is_to_be_confirmed("web", mk_listing("web", "n1", "n2", "n3"))
    known.heard_service("web", mk_listing("web", "n1"), 12, True, 1)
    assert known.is_to_be_confirmed("web", mk_listing("web", "n1")), "the doubt may have ended"


def test_a_name_that_cannot_be_asked_for_is_quarantined() -> None:
    known = mk_known("..", "web")
    assert set(known.names) == {"web"}
    (quarantined,) = known.take().quarantined
    assert "'..'" in quarantined.where


def test_a_quarantine_that_comes_or_goes_is_news() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1", port=0), 11, False, 1)
    assert len(known.take().quarantined) == 1
    known.heard_service("web", mk_listing("web"), 12, False, 1)
    assert known.news
    assert known.take().quarantined == ()


def test_a_change_is_explained_by_the_service_that_has_its_index() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1"), 42, False, 1)
    assert known.explained(41, 42) == (True, True)
    assert known.explained(40, 42) == (True, False)
    assert known.explained(42, 43) == (False, False)
    known.heard_service("api", mk_listing("api", "n1"), 41, False, 1)
    assert known.explained(40, 42) == (True, True)


def test_a_nodes_check_concerns_the_services_on_it() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1", "n2"), 11, False, 1)
    known.heard_service("api", mk_listing("api", "n2", port=0), 11, False, 1)
    assert known.with_checks(frozenset(), frozenset({"n1"})) == {"web"}
    assert known.with_checks(frozenset(), frozenset({"n2", "n3"})) == {"web", "api"}
    assert known.with_checks(frozenset({"db"}), frozenset({"n1"})) == {"db", "web"}


def test_the_liveliest_are_those_that_changed_last_and_can_be_called() -> None:
    known = mk_known("a", "b", "proxy-only", "unread")
    known.heard_service("a", mk_listing("a", "n1"), 11, False, 1)
    known.heard_service("b", mk_listing("b", "n1"), 12, False, 1)
    known.heard_service("proxy-only", mk_listing("proxy-only"), 13, False, 1)
    assert known.by_liveliness(known.names) == ["b", "a", "proxy-only"]
