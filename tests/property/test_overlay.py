"""Laws of what is laid over snapshots: the guard's holds and the drain's departing instances."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.drain import DrainRules, drain, leave
from isthmus.registry.guard import GuardRules, expire, guard
from isthmus.registry.merge import differing
from isthmus.registry.model import Health, Instance, Origin, Port, Protocol, Service, ServiceKey, Snapshot
from isthmus.registry.overlay import missing

KEYS = [ServiceKey("default", name) for name in ("a", "b")]
PORT = Port("http", 80, Protocol.HTTP)

# Few of each, so that ids come back elsewhere, and places under other ids.
instances = st.builds(
    Instance,
    id=st.sampled_from(["i1", "i2", "i3", "i4"]),
    origin=st.just("o"),
    address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    ports=st.dictionaries(st.just("http"), st.sampled_from([80, 81])),
    health=st.sampled_from(Health),
)
some = st.lists(instances, max_size=4, unique_by=lambda i: i.id).map(lambda s: tuple(sorted(s, key=lambda i: i.id)))
moments = st.tuples(
    st.dictionaries(st.sampled_from(KEYS), some),
    st.dictionaries(st.sampled_from(KEYS), st.just("unsure")),
    st.sampled_from([0.0, 4.0, 11.0]),
)
histories = st.lists(moments, min_size=2, max_size=6)


def apart(snapshot: Snapshot) -> Snapshot:
    """An equal snapshot that shares no service with any other, and has no hint."""
    services = {key: msgspec.structs.replace(service) for key, service in snapshot.services.items()}
    return msgspec.structs.replace(snapshot, services=services, changed=None)


def told(history: list[tuple[dict[ServiceKey, tuple[Instance, ...]], dict[ServiceKey, str], float]]) -> list[Snapshot]:
    """Snapshots with hints; a service that stays as it is stays the same object."""
    snapshots: list[Snapshot] = []
    known: dict[ServiceKey, Service] = {}
    for found, doubts, _ in history:
        services = {key: Service(key, (PORT,), there) for key, there in found.items()}
        services = {key: known[key] if known.get(key) == s else s for key, s in services.items()}
        changed = differing(known, services) if snapshots else None
        snapshots.append(Snapshot(Origin("o", "fake"), services, changed=changed, doubts=doubts))
        known = services
    return snapshots


@given(histories)
def test_what_is_shared_changes_nothing_but_time(
    history: list[tuple[dict[ServiceKey, tuple[Instance, ...]], dict[ServiceKey, str], float]],
) -> None:
    """Guard and drain show the same whether or not they are told what changed and may go by identity."""
    rules, graces = GuardRules(hold=10), DrainRules(grace=10)
    snapshots = told(history)
    guarded = bare_guarded = guard(None, snapshots[0], 0, relisted=True, rules=rules)
    drained = bare_drained = drain(None, guarded.admitted, 0, graces)
    now = 0.0
    for snapshot, (_, _, later) in zip(snapshots[1:], history[1:], strict=True):
        now += later
        guarded = guard(expire(guarded, now), snapshot, now, relisted=False, rules=rules)
        bare_guarded = guard(expire(bare_guarded, now), apart(snapshot), now, relisted=False, rules=rules)
        assert guarded.admitted.services == bare_guarded.admitted.services
        assert (guarded.holds, guarded.admitted.kept) == (bare_guarded.holds, bare_guarded.admitted.kept)

        drained = drain(leave(drained, now), guarded.admitted, now, graces)
        bare_drained = drain(leave(bare_drained, now), apart(bare_guarded.admitted), now, graces)
        assert drained.shown.services == bare_drained.shown.services
        assert (drained.leaving, drained.shown.kept) == (bare_drained.leaving, bare_drained.shown.kept)


@given(some, st.one_of(st.none(), some))
def test_missing_is_what_neither_id_nor_place_is_there_of(
    wanted: tuple[Instance, ...], there: tuple[Instance, ...] | None
) -> None:
    service = None if there is None else Service(KEYS[0], (PORT,), there)
    expected = [
        i
        for i in wanted
        if all(i.id != other.id and (i.address, i.ports) != (other.address, other.ports) for other in there or ())
    ]
    assert list(missing(wanted, service)) == expected


@given(histories)
def test_the_hint_of_what_is_shown_is_complete(
    history: list[tuple[dict[ServiceKey, tuple[Instance, ...]], dict[ServiceKey, str], float]],
) -> None:
    graces = DrainRules(grace=10)
    snapshots = told(history)
    drained = drain(None, snapshots[0], 0, graces)
    for n, (_, snapshot) in enumerate(itertools.pairwise(snapshots), 1):
        after = drain(drained, snapshot, 4.0 * n, graces)
        assert after.shown.changed is not None
        assert differing(drained.shown.services, after.shown.services) <= after.shown.changed
        gone = leave(after, 4.0 * n + 7)
        assert gone.shown.changed is not None
        assert gone is after or differing(after.shown.services, gone.shown.services) <= gone.shown.changed
        drained = after
