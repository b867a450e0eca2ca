"""What is known of one Consul: which answers are news, and what a snapshot says."""

from __future__ import annotations

from isthmus.registry.consul.answers import Entry, Listing, Node, ServiceEntry
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.parse import Rules
from isthmus.registry.model import Origin, ServiceKey


def mk_known(*names: str) -> Known:
    known = Known(Origin("dc1", "consul"), Rules())
    known.heard_list(mk_names(*names), 10, "")
    return known


def mk_names(*names: str) -> dict[str, frozenset[str]]:
    return {name: frozenset() for name in names}


def mk_listing(name: str, *nodes: str, port: int = 80) -> Listing:
    return Listing(tuple(Entry(Node(n, "10.0.0.1"), ServiceEntry(name, name, port=port)) for n in nodes))


def key(name: str) -> ServiceKey:
    return ServiceKey("default", name)


def test_a_changed_listing_is_news_and_an_equal_one_is_not() -> None:
    known = mk_known("web")
    assert known.heard_service("web", mk_listing("web", "n1"), 11, "", 1)
    assert known.take().changed == frozenset({key("web")})
    assert not known.heard_service("web", mk_listing("web", "n1"), 12, "", 2)
    assert not known.news
    assert known.heard_service("web", mk_listing("web", "n1", "n2"), 13, "", 3)
    assert known.news
    assert known.changed_at("web") == 3


def test_a_snapshot_that_was_taken_does_not_change_any_more() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1"), 11, "", 1)
    before = known.take()
    known.heard_service("api", mk_listing("api", "n1"), 12, "", 1)
    known.heard_list(mk_names("api"), 13, "")
    assert set(before.services) == {key("web")}
    after = known.take()
    assert set(after.services) == {key("api")}
    assert after.changed == frozenset({key("web"), key("api")})
    assert after.cursor == "13"


def test_what_is_listed_no_longer_is_forgotten_and_a_late_answer_does_not_bring_it_back() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1"), 11, "", 1)
    change = known.heard_list(mk_names(), 12, "")
    assert change.gone == {"web"}
    assert not known.heard_service("web", mk_listing("web", "n1"), 11, "", 2)
    assert known.take().services == {}


def test_new_names_and_other_tags_are_touched() -> None:
    known = mk_known("web", "api")
    names = {"web": frozenset({"v2"}), "api": frozenset[str](), "new": frozenset[str]()}
    assert known.heard_list(names, 11, "").touched == {"web", "new"}


def test_it_is_complete_when_each_listed_service_was_read() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web"), 11, "", 1)
    assert not known.complete
    known.heard_list(mk_names("web"), 12, "")
    assert known.complete


def test_doubt_comes_from_the_list_or_any_service_and_is_news_when_it_goes() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1"), 11, "filtered", 1)
    assert known.take().doubt == "filtered"
    known.heard_service("web", mk_listing("web", "n1"), 11, "", 2)
    assert known.news
    assert known.take().doubt == ""
    known.heard_list(mk_names("web"), 12, "the list is filtered")
    assert known.news
    assert known.take().doubt == "the list is filtered"


def test_a_name_that_cannot_be_asked_for_is_quarantined() -> None:
    known = mk_known("..", "web")
    assert set(known.names) == {"web"}
    (quarantined,) = known.take().quarantined
    assert "'..'" in quarantined.where


def test_a_quarantine_that_comes_or_goes_is_news() -> None:
    known = mk_known("web")
    known.heard_service("web", mk_listing("web", "n1", port=0), 11, "", 1)
    assert len(known.take().quarantined) == 1
    known.heard_service("web", mk_listing("web"), 12, "", 1)
    assert known.news
    assert known.take().quarantined == ()


def test_a_change_is_explained_by_the_service_that_has_its_index() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1"), 42, "", 1)
    assert known.explained(41, 42) == (True, True)
    assert known.explained(40, 42) == (True, False)
    assert known.explained(42, 43) == (False, False)
    known.heard_service("api", mk_listing("api", "n1"), 41, "", 1)
    assert known.explained(40, 42) == (True, True)


def test_a_nodes_check_concerns_the_services_on_it() -> None:
    known = mk_known("web", "api")
    known.heard_service("web", mk_listing("web", "n1", "n2"), 11, "", 1)
    known.heard_service("api", mk_listing("api", "n2", port=0), 11, "", 1)
    assert known.on_nodes(frozenset({"n1"})) == {"web"}
    assert known.on_nodes(frozenset({"n2", "n3"})) == {"web", "api"}


def test_the_liveliest_are_those_that_changed_last_and_can_be_called() -> None:
    known = mk_known("a", "b", "proxy-only", "unread")
    known.heard_service("a", mk_listing("a", "n1"), 11, "", 1)
    known.heard_service("b", mk_listing("b", "n1"), 12, "", 1)
    known.heard_service("proxy-only", mk_listing("proxy-only"), 13, "", 1)
    assert known.by_liveliness(known.names) == ["b", "a", "proxy-only"]
