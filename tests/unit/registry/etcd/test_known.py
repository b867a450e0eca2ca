"""What is known of one cluster: whatever came in which way, the snapshot is that of what is there now."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.etcd.config import EtcdConfig, Prefix
from isthmus.registry.etcd.known import MAX_QUARANTINED, Known, Pair
from isthmus.registry.model import Origin, ServiceKey, Snapshot

ORIGIN = Origin("keys", "etcd")
CONFIG = EtcdConfig(prefixes=(Prefix("/a/", layout="go-micro"), Prefix("/b/", layout="go-zero")))


def pair(key: str, value: str, revision: int, *, permanent: bool = False) -> Pair:
    return Pair(key.encode(), value.encode(), revision, permanent)


def mk_known(*prefixes: Prefix) -> Known:
    return Known(ORIGIN, EtcdConfig(prefixes=prefixes) if prefixes else CONFIG)


def take(known: Known) -> Snapshot:
    known.settle()
    return known.take()


def names(snapshot: Snapshot) -> set[str]:
    return {key.name for key in snapshot.services}


def micro(service: str, *addresses: str) -> str:
    nodes = ",".join(f'{{"id":"n{n}","address":"{a}"}}' for n, a in enumerate(addresses))
    return f'{{"name":"{service}","nodes":[{nodes}]}}'


_KEYS = st.sampled_from(
    [(0, "/a/x/1"), (0, "/a/x/2"), (1, "/b/web/1"), (1, "/b/web/2"), (1, "/b/api/1"), (1, "/b/x/1")]
)
_VALUES = st.sampled_from(
    [
        *("10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:40000", "nonsense", "", micro("web"), micro("web", "10.0.0.1:81")),
        *(micro("api", "10.0.0.1:1", "10.0.0.2:2"), micro("x", "10.0.0.1:1", "nowhere")),
    ]
)
_OPERATIONS = st.lists(st.tuples(_KEYS, st.none() | _VALUES, st.booleans()), max_size=25)


@given(_OPERATIONS)
def test_the_way_does_not_matter(operations: Sequence[tuple[tuple[int, str], str | None, bool]]) -> None:
    """After any puts and deletes all is as if only what is left had been put; and every difference was named."""
    known = mk_known()
    before = take(known)
    left: dict[tuple[int, str], Pair] = {}
    for revision, ((prefix, key), value, look) in enumerate(operations, 1):
        if value is None:
            known.delete(prefix, key.encode(), revision)
            left.pop((prefix, key), None)
        else:
            left[prefix, key] = pair(key, value, revision)
            known.put(prefix, left[prefix, key])
        if look:
            after = take(known)
            keys = before.services.keys() | after.services.keys()
            differ = {k for k in keys if before.services.get(k) != after.services.get(k)}
            assert after.changed is not None
            assert differ == after.changed
            before = after
    anew = mk_known()
    for (prefix, _), one in sorted(left.items(), reverse=True):
        anew.put(prefix, one)
    assert take(known).services == take(anew).services
    assert known.take().quarantined == anew.take().quarantined


def test_what_is_older_than_what_is_known_is_ignored() -> None:
    known = mk_known()
    known.put(1, pair("/b/web/1", "10.0.0.2:80", 7))
    known.put(1, pair("/b/web/1", "10.0.0.1:80", 6))
    known.delete(1, b"/b/web/1", 6)
    (service,) = take(known).services.values()
    assert service.instances[0].address == "10.0.0.2"
    assert known.take().cursor == "7"


def test_the_same_again_is_no_news() -> None:
    known = mk_known()
    known.put(1, pair("/b/web/1", "10.0.0.1:80", 1))
    assert known.settle()
    known.take()
    known.put(1, pair("/b/web/1", "10.0.0.1:80", 2))
    assert not known.settle()
    known.put(1, pair("/b/web/1", "10.0.0.1:80", 3, permanent=True))
    assert known.settle(), "that nothing will take it away is"


def test_an_instance_that_moves_to_another_service_leaves_the_first() -> None:
    known = mk_known()
    known.put(0, pair("/a/x/1", micro("one", "10.0.0.1:80"), 1))
    take(known)
    known.put(0, pair("/a/x/1", micro("two", "10.0.0.1:80"), 2))
    snapshot = take(known)
    assert names(snapshot) == {"two"}
    assert snapshot.changed == frozenset({ServiceKey("default", "one"), ServiceKey("default", "two")})


def test_many_bad_keys_are_counted() -> None:
    """Not thousands of lines; the first by name, and how many there are."""
    known = mk_known()
    for n in range(MAX_QUARANTINED + 50):
        known.put(1, pair(f"/b/web/{n:04}", "?", n + 1))
    quarantined = take(known).quarantined
    assert len(quarantined) == MAX_QUARANTINED + 1
    assert quarantined[0].where == "key /b/web/0000"
    assert quarantined[-1].reason.startswith("50 ")


def test_a_service_of_which_a_port_is_left_out_is_named() -> None:
    known = mk_known(Prefix("/k/", layout="go-kratos"))
    value = '{"id":"a","name":"web","endpoints":["grpc://10.0.0.1:40001","http://10.0.0.1:40000"]}'
    known.put(0, pair("/k/web/a", value, 1))
    (bad,) = take(known).quarantined
    assert (bad.where, "grpc is left out" in bad.reason) == ("service web", True)
    known.delete(0, b"/k/web/a", 2)
    assert take(known).quarantined == ()


def test_an_undetected_prefix_holds_its_keys_until_the_layout_is_found() -> None:
    known = mk_known(Prefix("/b/"))
    odd, good = pair("/b/readme", "?", 1), pair("/b/web/1", "10.0.0.1:80", 2)
    assert known.detect(0, [odd]).layout == ""
    known.put(0, odd)
    assert [q.where for q in take(known).quarantined] == ["prefix '/b/'"]
    assert not known.may_detect(0, odd)
    assert known.may_detect(0, good)
    known.delete(0, b"/b/readme", 3)
    assert known.detect(0, [good]).layout == "go-zero"
    known.put(0, good)
    snapshot = take(known)
    assert names(snapshot) == {"web"}
    assert snapshot.quarantined == ()
