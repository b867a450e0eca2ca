from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.vip import NETWORK, VirtualIPError, allocate

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
    assert addresses.isdisjoint({ipaddress.IPv4Address("127.64.0.0"), ipaddress.IPv4Address("127.127.255.255")})


@given(st.lists(st.text(min_size=1, max_size=3), max_size=12))
def test_two_bridges_agree(wanted: list[str]) -> None:
    """The order in which names are seen does not matter, even where hashes collide."""
    assert allocate({}, wanted, "127.64.0.0/28") == allocate({}, reversed(wanted), "127.64.0.0/28")


def test_a_service_that_is_gone_keeps_its_address() -> None:
    known = allocate({}, ["db.default"])
    assert allocate(known, []) == known


def test_a_full_network_says_so() -> None:
    known = allocate({}, ["a", "b"], "127.64.0.0/30")
    assert sorted(known.values()) == ["127.64.0.1", "127.64.0.2"]
    with pytest.raises(VirtualIPError, match=r"left for 'c': all 2 addresses of 127\.64\.0\.0/30"):
        allocate(known, ["c"], "127.64.0.0/30")


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
