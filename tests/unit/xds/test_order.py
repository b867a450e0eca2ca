"""The order between types, as a table."""

from __future__ import annotations

from isthmus.xds.order import RENEWS, TURNS, Wait
from isthmus.xds.resource import TypeUrl


def test_every_served_type_has_one_turn() -> None:
    """Rule 35: clusters, endpoints, listeners, routes, and the others between or after them."""
    order = [t.type_url for t in TURNS]
    assert sorted(order) == sorted(TypeUrl)
    known = (TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.VIRTUAL_HOST)
    assert tuple(t for t in order if t in known) == known


def test_additions_wait_only_for_earlier_turns() -> None:
    """Whoever waits for a type's additions comes after it, so that one round sends as much as may be sent."""
    places = {turn.type_url: place for place, turn in enumerate(TURNS)}
    for turn in TURNS:
        assert all(places[t] < places[turn.type_url] for t in turn.after)


def test_withdrawals_cannot_wait_for_each_other() -> None:
    """Following who waits for whom ends; otherwise only the bound would."""
    waits = {turn.type_url: {*turn.withdrawals_after, *turn.after} for turn in TURNS}
    # Additions go on while withdrawals wait, so waiting for warmth is not waiting for a withdrawal.
    for turn in TURNS:
        waits[turn.type_url] -= {t for t, w in turn.after.items() if w is Wait.WARM}
    seen: list[TypeUrl] = []
    while waits:
        free = [t for t, on in waits.items() if on <= set(seen)]
        assert free, f"a circle among {sorted(waits)}"
        seen += free
        waits = {t: on for t, on in waits.items() if t not in free}


def test_endpoints_never_wait_for_clusters() -> None:
    """Rule 36: Envoy withholds the acknowledgement of clusters until it has their endpoints, and secrets (rule 40)."""
    warming = [t for t in TURNS if t.type_url in (TypeUrl.ENDPOINT, TypeUrl.SECRET)]
    assert len(warming) == 2
    assert not any(t.after for t in warming)


def test_a_cluster_renews_its_endpoints() -> None:
    assert RENEWS == {TypeUrl.CLUSTER: TypeUrl.ENDPOINT}
