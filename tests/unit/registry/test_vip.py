from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.vip import NETWORK, VirtualIPError, allocate, reconcile, shared_address

names = st.sets(st.text(min_size=1, max_size=8), max_size=30)


@given(names, names)
def test_addresses_are_distinct_hosts_and_never_change(first: set[str], later: set[str]) -> None:
    """Whatever comes later, an address once given stays."""
    known = allocate({}, first)
    everything = allocate(known, later)
    assert set(everything) == first | later
    assert everything.items() >= known.items()
    addresses = {ipaddress.IPv4Address(text) for text in everything.values()}
    assert len(addresses) == len(everything)
    assert all(address in ipaddress.IPv4Network(NETWORK) for address in addresses)
    nobodys = ("127.64.0.0", "127.127.255.255", shared_address())
    assert addresses.isdisjoint(map(ipaddress.IPv4Address, nobodys))


@given(st.lists(st.text(min_size=1, max_size=3), max_size=12))
def test_two_bridges_agree(wanted: list[str]) -> None:
    """The order in which names are seen does not matter, even where hashes collide."""
    assert allocate({}, wanted, "127.64.0.0/28") == allocate({}, reversed(wanted), "127.64.0.0/28")


def test_a_service_that_is_gone_keeps_its_address() -> None:
    known = allocate({}, ["db.default"])
    assert allocate(known, []) == known


def test_a_full_network_says_so() -> None:
    known = allocate({}, ["a", "b"], "127.64.0.8/29")
    known = allocate(known, ["c", "d", "e"], "127.64.0.8/29")
    assert sorted(known.values()) == [f"127.64.0.{n}" for n in range(10, 15)]
    with pytest.raises(VirtualIPError, match=r"left for 'f': all 5 addresses of 127\.64\.0\.8/29"):
        allocate(known, ["f"], "127.64.0.8/29")


def test_who_has_the_shared_address_from_earlier_keeps_it() -> None:
    """It was given before there was a shared one; callers have it."""
    assert shared_address("127.64.0.8/29") == "127.64.0.9"
    known = allocate({"a": "127.64.0.9"}, "bcdef", "127.64.0.8/29")
    assert known["a"] == "127.64.0.9"
    assert len(set(known.values())) == 6
    with pytest.raises(VirtualIPError, match="left for 'g'"):
        allocate(known, ["g"], "127.64.0.8/29")


addresses = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123456"), max_size=6).filter(
    lambda record: len(set(record.values())) == len(record)
)


@given(addresses, addresses)
def test_of_two_records_the_stores_word_holds_and_nobody_gets_anothers_address(
    stored: dict[str, str], mine: dict[str, str]
) -> None:
    united, displaced = reconcile(stored, mine)
    assert united.items() >= stored.items()
    assert len(set(united.values())) == len(united)
    assert {name: a for name, a in mine.items() if united.get(name) != a} == displaced
    assert reconcile(united, united) == (united, {})


@pytest.mark.parametrize(
    ("known", "error"),
    [
        ({"db": "nonsense"}, "virtual IP of 'db' is no IPv4 address: 'nonsense'"),
        ({"db": "10.0.0.1"}, "virtual IP of 'db', 10.0.0.1, is not a host of 127.64.0.0/10"),
        ({"db": "127.64.0.0"}, "virtual IP of 'db', 127.64.0.0, is not a host"),
        ({"db": "127.127.255.255"}, "virtual IP of 'db', 127.127.255.255, is not a host"),
        ({"db": "127.64.0.1", "web": "127.64.0.1"}, "127.64.0.1 is recorded for both 'db' and 'web'"),
    ],
)
def test_nonsense_in_the_record_is_named(known: dict[str, str], error: str) -> None:
    with pytest.raises(VirtualIPError, match=error):
        allocate(known, ["new"])
