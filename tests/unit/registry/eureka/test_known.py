"""What is known of one Eureka after listings, deltas and changes of the feed, in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from isthmus.registry.eureka.answers import Application, Entry, Lease, Record
from isthmus.registry.eureka.known import DOUBT, FED, Key, Known, overdue
from isthmus.registry.eureka.parse import Rules
from isthmus.registry.eureka.replication import (
    CANCEL,
    DELETE_STATUS_OVERRIDE,
    HEARTBEAT,
    REGISTER,
    STATUS_UPDATE,
    Change,
)
from isthmus.registry.model import Origin, Snapshot
from tests.unit.registry.eureka.test_parse import mk_record

KEY = ("WEB", "web-1")


def mk_known(*expected: Key) -> Known:
    return Known(Origin("spring", "eureka"), Rules(), "eureka:8761", frozenset(expected))


def mk_entry(number: int = 1, action: str = "", renewed: int = 0, **more: Any) -> Entry:
    return Entry(mk_record(number, **more), Lease(30, 90, 1, renewed), action)


def listing(*entries: Entry) -> list[Application]:
    apps = sorted({e.record.app for e in entries})
    return [Application(app, tuple(e for e in entries if e.record.app == app)) for app in apps]


def listed(*entries: Entry, expected: Iterable[Key] = ()) -> Known:
    known = mk_known(*expected)
    known.heard_all(listing(*entries), "", 0.0, watched=False)
    return known


def health(snapshot: Snapshot) -> dict[str, str]:
    return {i.id: i.health.value for s in snapshot.services.values() for i in s.instances}


# Listings and deltas.


def test_a_delta_is_applied_and_its_repetition_is_no_news() -> None:
    known = listed(mk_entry(1, updated=1))
    assert health(known.take()) == {"web-1": "healthy"}
    delta = listing(mk_entry(1, "MODIFIED", status="DOWN", updated=5), mk_entry(2, "ADDED", updated=6))
    assert known.heard_delta(delta, "", 1.0)
    snapshot = known.take()
    assert health(snapshot) == {"web-1": "unhealthy", "web-2": "healthy"}
    assert {k.name for k in snapshot.changed or ()} == {"web"}
    assert not known.heard_delta(delta, "", 2.0)
    assert not known.news


def test_what_a_delta_says_of_the_past_is_ignored() -> None:
    """It repeats the changes of three minutes; the listing may be younger than some of them."""
    known = listed(mk_entry(1, updated=10))
    known.take()
    known.heard_delta(listing(mk_entry(1, "MODIFIED", status="DOWN", updated=9)), "", 1.0)
    known.heard_delta(listing(mk_entry(1, "DELETED", updated=9)), "", 2.0)
    assert not known.news


def test_what_a_delta_in_brief_tells_that_is_not_known() -> None:
    known = listed(mk_entry(1, updated=5))
    assert known.lacking(listing(mk_entry(1, "ADDED", updated=5, metadata={}))) == [], "what it leaves out"
    assert known.lacking(listing(mk_entry(1, "ADDED", updated=4), mk_entry(3, "DELETED", updated=7))) == []
    newer = listing(mk_entry(1, "MODIFIED", updated=6), mk_entry(2, "ADDED", updated=1))
    assert known.lacking(newer) == [("WEB", "web-1"), ("WEB", "web-2")]


def test_a_listing_older_than_a_delta_is_ignored() -> None:
    """They come from different pages of the server's cache."""
    known = listed(mk_entry(1, updated=1))
    known.heard_delta(listing(mk_entry(1, "MODIFIED", status="DOWN", updated=5)), "", 1.0)
    known.heard_all(listing(mk_entry(1, updated=1)), "", 2.0, watched=False)
    assert health(known.take()) == {"web-1": "unhealthy"}


def test_a_deletion_that_a_delta_tells_is_believed() -> None:
    known = listed(mk_entry(1), mk_entry(2))
    known.heard_delta(listing(mk_entry(1, "DELETED", updated=5)), "", 1.0)
    snapshot = known.take()
    assert health(snapshot) == {"web-2": "healthy"}
    assert snapshot.doubt == ""
    known.heard_delta(listing(mk_entry(2, "DELETED", updated=6)), "", 2.0)
    assert known.take().services == {}


def test_the_hashcode() -> None:
    known = listed(mk_entry(1), mk_entry(2, status="DOWN"), mk_entry(3, app="API"))
    assert known.agrees("DOWN_1_UP_2_")
    assert not known.agrees("UP_3_")
    assert not known.agrees("")
    assert mk_known().agrees("")


def test_the_hashcode_proves_nothing_where_instances_could_not_be_read() -> None:
    known = mk_known()
    known.heard_all([Application("WEB", (mk_entry(1),), (("instance web-2", "port?"),))], "", 0.0, watched=False)
    assert known.agrees("UP_2_")
    (bad,) = known.take().quarantined
    assert bad.where == "instance web-2"


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["ADDED", "MODIFIED", "DELETED"])), max_size=12))
def test_deltas_lead_where_a_listing_does(story: list[tuple[int, str]]) -> None:
    """Whatever happens, and however often parts of it are repeated, the end is what the server has."""
    watching = listed()
    server: dict[int, Entry] = {}
    told: dict[int, Entry] = {}
    for moment, (number, action) in enumerate(story, 1):
        entry = mk_entry(number, action, port=8000 + moment, updated=moment)
        told[number] = entry
        if action == "DELETED":
            server.pop(number, None)
        else:
            server[number] = entry
        watching.heard_delta(listing(*told.values()), "", float(moment))
    assert watching.take().services == listed(*server.values()).take().services


def test_an_application_may_come_in_pieces_or_without_a_name() -> None:
    known = mk_known()
    pieces = [Application("WEB", (mk_entry(1),)), Application("", (mk_entry(2),)), Application("WEB", (mk_entry(3),))]
    known.heard_all(
        [*pieces, Application("", (), (("a", "?"),)), Application("", (), (("b", "?"),))], "", 0.0, watched=False
    )
    snapshot = known.take()
    assert list(health(snapshot)) == ["web-1", "web-2", "web-3"]
    assert [q.where for q in snapshot.quarantined] == ["a", "b"]
    known.heard_delta(listing(mk_entry(2, "DELETED", updated=5)), "", 1.0)
    assert list(health(known.take())) == ["web-1", "web-3"]


# Absences that nothing explains.


def test_what_another_server_lacks_is_doubted_until_time_has_passed() -> None:
    """It may have been restarted just now; whoever lives registers with it within two heartbeats."""
    known = listed(mk_entry(1), expected=[("WEB", "web-1"), ("WEB", "web-2")])
    first = known.take()
    assert health(first) == {"web-1": "healthy"}
    assert "lacks 1 of the instances known before" in first.doubt
    known.heard_delta([], "", DOUBT)
    assert not known.news
    known.heard_delta([], "", DOUBT + 1)
    assert known.take().doubt == ""


def test_the_doubt_ends_when_what_was_missing_is_back_or_was_seen_to_go() -> None:
    known = listed(mk_entry(1), expected=[("WEB", "web-2"), ("WEB", "web-3")])
    assert known.take().doubt
    known.heard_delta(listing(mk_entry(2, "ADDED", updated=5)), "", 1.0)
    assert known.take().doubt
    known.heard_delta(listing(mk_entry(3, "DELETED", updated=6)), "", 2.0)
    assert known.take().doubt == ""


def test_a_later_listing_that_lacks_something_is_doubted_too() -> None:
    """A balancer in front of the servers may have turned to another one."""
    known = listed(mk_entry(1), mk_entry(2))
    known.take()
    known.heard_all(listing(mk_entry(1)), "", 10.0, watched=False)
    assert known.take().doubt
    known.heard_all(listing(mk_entry(1)), "", 20.0, watched=False)
    assert not known.news, "still missing, still the same doubt"
    known.heard_all(listing(mk_entry(1)), "", 10.0 + DOUBT + 1, watched=False)
    assert known.take().doubt == ""


def test_without_deltas_a_listing_is_all_there_is() -> None:
    known = listed(mk_entry(1), mk_entry(2))
    known.heard_all(listing(mk_entry(1)), "", 10.0, watched=True)
    assert known.take().doubt == ""


def test_what_is_missing_is_expected_of_the_next_reading() -> None:
    """Two failures in a row do not make an absence true."""
    known = listed(mk_entry(1), expected=[("WEB", "web-2")])
    assert known.keys == {("WEB", "web-1"), ("WEB", "web-2")}


# The feed.


def test_the_feed_outweighs_polls_that_lag_behind() -> None:
    """A poll is answered from a cache of half a minute."""
    known = listed(mk_entry(1, updated=1))
    assert known.heard_change(Change(STATUS_UPDATE, *KEY, status="OUT_OF_SERVICE"), 1.0)
    assert health(known.take()) == {"web-1": "draining"}
    known.heard_all(listing(mk_entry(1, updated=1)), "", 5.0, watched=False)
    assert not known.news
    agreed = mk_entry(1, "MODIFIED", status="OUT_OF_SERVICE", overridden="OUT_OF_SERVICE", updated=9)
    known.heard_delta(listing(agreed), "", 31.0)
    assert not known.news
    known.heard_delta(listing(mk_entry(1, "MODIFIED", updated=20)), "", 40.0)
    assert health(known.take()) == {"web-1": "healthy"}, "once they have agreed, the polls count again"


def test_polls_that_never_agree_with_the_feed_win_in_the_end() -> None:
    known = listed(mk_entry(1))
    known.heard_change(Change(CANCEL, *KEY), 1.0)
    assert known.take().services == {}
    known.heard_all(listing(mk_entry(1)), "", 1.0 + FED, watched=False)
    assert not known.news
    known.heard_all(listing(mk_entry(1)), "", 2.0 + FED, watched=False)
    assert health(known.take()) == {"web-1": "healthy"}


def test_a_cancellation_by_the_feed_is_seen_to_happen() -> None:
    known = listed(mk_entry(1), mk_entry(2))
    known.heard_change(Change(CANCEL, *KEY), 1.0)
    known.heard_all(listing(mk_entry(2)), "", 5.0, watched=False)
    snapshot = known.take()
    assert health(snapshot) == {"web-2": "healthy"}
    assert snapshot.doubt == ""
    assert known.keys == {("WEB", "web-2")}


def test_a_registration_by_the_feed() -> None:
    known = listed()
    assert known.heard_change(Change(REGISTER, *KEY, entry=mk_entry(1)), 1.0)
    assert health(known.take()) == {"web-1": "healthy"}
    known.heard_all([], "", 5.0, watched=False)
    snapshot = known.take() if known.news else None
    assert snapshot is None, "a listing that does not have it yet is no reason to forget it"


def test_an_override_and_its_end_by_the_feed() -> None:
    known = listed(mk_entry(1))
    known.heard_change(Change(STATUS_UPDATE, *KEY, status="OUT_OF_SERVICE"), 1.0)
    known.heard_change(Change(DELETE_STATUS_OVERRIDE, *KEY, status="UP"), 2.0)
    assert health(known.take()) == {"web-1": "healthy"}


def test_what_is_asked_for_as_a_whole() -> None:
    """Of an unknown instance, or one that has changed since, a heartbeat is not enough."""
    known = listed(mk_entry(1, dirty=10))
    assert known.heard_change(Change(HEARTBEAT, *KEY, dirty=10), 1.0)
    assert not known.heard_change(Change(HEARTBEAT, *KEY, dirty=11), 1.0)
    assert not known.heard_change(Change(HEARTBEAT, "WEB", "web-9"), 1.0)
    assert not known.heard_change(Change(STATUS_UPDATE, "WEB", "web-9", status="DOWN"), 1.0)
    assert known.heard_change(Change(CANCEL, "WEB", "web-9"), 1.0), "what is not there need not be cancelled"


def test_a_heartbeat_lifts_nothing() -> None:
    known = listed(mk_entry(1, status="DOWN"))
    known.heard_change(Change(HEARTBEAT, *KEY, status="UP"), 1.0)
    assert health(known.take()) == {"web-1": "unhealthy"}


def test_an_older_registration_is_ignored() -> None:
    """Batches of several servers may overtake each other."""
    known = listed(mk_entry(1, dirty=10, port=9000))
    assert known.heard_change(Change(REGISTER, *KEY, dirty=5, entry=mk_entry(1, dirty=5)), 1.0)
    (service,) = known.take().services.values()
    assert service.instances[0].ports == {"http": 9000}


def test_silent_instances() -> None:
    known = listed(mk_entry(1), mk_entry(2))
    known.take()
    known.set_silent(frozenset({KEY}))
    assert health(known.take()) == {"web-1": "unhealthy", "web-2": "healthy"}
    known.set_silent(frozenset())
    assert health(known.take()) == {"web-1": "healthy", "web-2": "healthy"}


# Overdue renewals.


def leases(**renewed: tuple[int, int]) -> dict[Key, Lease]:
    return {("WEB", name): Lease(30, duration, 1, at) for name, (duration, at) in renewed.items()}


def test_overdue_is_told_by_the_others() -> None:
    """No clock is needed: the newest renewal in a listing is the server's now, however old the listing."""
    assert overdue(leases(a=(90, 1_000_000), b=(90, 970_000), c=(90, 820_000))) == {("WEB", "c"): 2.0}


def test_overdue_counts_for_nothing_when_it_shall_not() -> None:
    known = Known(Origin("spring", "eureka"), Rules(taper=False), "eureka:8761")
    known.heard_all(listing(mk_entry(1, renewed=1_000_000), mk_entry(2, renewed=1_000)), "", 0.0, watched=False)
    assert health(known.take()) == {"web-1": "healthy", "web-2": "healthy"}


def test_leases_of_another_duration_tell_nothing() -> None:
    """Servers add the duration to the time of a renewal."""
    assert overdue(leases(a=(90, 1_000_000), b=(10, 500_000))) == {}


def test_who_has_not_renewed_yet_is_not_overdue() -> None:
    assert overdue(leases(a=(90, 1_000_000)) | {("WEB", "new"): Lease(30, 90, 500_000, 500_000)}) == {}


def tapers(snapshot: Snapshot) -> dict[str, int]:
    """Percent of its weight that each instance gets."""
    return {i.id: i.taper for s in snapshot.services.values() for i in s.instances}


def test_overdue_instances_get_less_until_they_renew() -> None:
    known = listed(mk_entry(1, renewed=1_000_000), mk_entry(2, renewed=865_000))
    snapshot = known.take()
    assert tapers(snapshot) == {"web-1": 100, "web-2": 50}
    assert health(snapshot) == {"web-1": "healthy", "web-2": "healthy"}
    known.heard_all(listing(mk_entry(1, renewed=1_000_000), mk_entry(2, renewed=990_000)), "", 9.0, watched=False)
    assert tapers(known.take()) == {"web-1": 100, "web-2": 100}


@given(
    st.dictionaries(st.text("abc", min_size=1), st.tuples(st.sampled_from([30, 90]), st.integers(2, 10**9))),
    st.integers(-(10**12), 10**13),
)
def test_a_servers_clock_may_be_wrong_by_any_amount(renewed: dict[str, tuple[int, int]], skew: int) -> None:
    """Years ahead of ours or behind: renewals are compared with each other, and with nothing else."""
    skewed = {name: (duration, at + skew) for name, (duration, at) in renewed.items()}
    assume(all(at not in (0, 1) for _, at in skewed.values()))  # never renewed; the registration's own time

    assert overdue(leases(**skewed)) == overdue(leases(**renewed))


def test_renewals_that_reach_the_server_no_more_make_nobody_overdue() -> None:
    """A server cut off from all of its clients goes on listing them (self-preservation): all are of one age, however old."""
    entries = listing(*(mk_entry(n, renewed=1_000_000 + n) for n in (1, 2, 3)))
    known = listed(*(mk_entry(n, renewed=1_000_000 + n) for n in (1, 2, 3)))
    known.take()
    known.heard_all(entries, "", 86_400.0, watched=False)
    assert not known.news


def test_an_equal_listing_is_no_news() -> None:
    """Renewals alone change nothing."""
    known = listed(mk_entry(1, renewed=1_000_000))
    known.take()
    known.heard_all(listing(mk_entry(1, renewed=1_030_000)), "", 9.0, watched=False)
    assert not known.news


def test_another_listing_takes_over_what_no_listing_shows() -> None:
    """An audit compares like with like."""
    known = listed(mk_entry(1), mk_entry(2), mk_entry(3))
    known.heard_change(Change(CANCEL, *KEY), 1.0)
    known.set_silent(frozenset({("WEB", "web-2")}))
    audit = listed(mk_entry(1), mk_entry(2), mk_entry(3))
    audit.take()
    audit.take_over(known)
    assert audit.take().services == known.take().services


def test_the_record_that_is_known() -> None:
    known = listed(mk_entry(1))
    record: Record | None = known.record(KEY)
    assert record == mk_record(1)
    known.heard_change(Change(CANCEL, *KEY), 1.0)
    assert known.record(KEY) is None
