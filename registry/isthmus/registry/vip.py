"""Virtual IPs of services: loopback addresses that never change once given.

Callers of a TCP service connect to its address, so an address must outlive every restart: the caller keeps what `allocate`
returned and gives it back as `known`. A new name gets the address its hash names, or the next free one; two bridges that
know the same and see the same names agree.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

NETWORK = "127.64.0.0/10"
"""Loopback on every Linux, and away from the 127.0.0.0/16 that people use by hand."""


class VirtualIPError(ValueError):
    """Addresses cannot be given out; the text says which entry is wrong or that the network is full."""


def allocate(known: Mapping[str, str], names: Iterable[str], network: str = NETWORK) -> dict[str, str]:
    """All of `known`, and an address for each name that has none yet.

    The first and the last address of the network are never given.

    Raises:
        VirtualIPError: `known` has an address outside the network or one address twice, or the network is full.

    """
    subnet = ipaddress.IPv4Network(network)
    first = int(subnet.network_address) + 1
    size = subnet.num_addresses - 2
    allocated = dict(known)
    owners: dict[int, str] = {}
    for name, text in known.items():
        number = _number(name, text, subnet)
        other = owners.setdefault(number, name)
        if other != name:
            raise VirtualIPError(f"virtual IP {text} is recorded for both {other!r} and {name!r}; remove one of them")
    for name in sorted(set(names).difference(known)):
        if len(owners) >= size:
            raise VirtualIPError(
                f"no virtual IP is left for {name!r}: all {size} addresses of {network} are taken; "
                "remove records of services that are gone, or configure a larger network"
            )
        offset = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % size
        while first + offset in owners:
            offset = (offset + 1) % size
        owners[first + offset] = name
        allocated[name] = str(ipaddress.IPv4Address(first + offset))
    return allocated


def _number(name: str, text: str, subnet: ipaddress.IPv4Network) -> int:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise VirtualIPError(f"the recorded virtual IP of {name!r} is no IPv4 address: {text!r}") from None
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise VirtualIPError(
            f"the recorded virtual IP of {name!r}, {text}, is not a host of {subnet}; remove the record, "
            "or configure the network it came from"
        )
    return int(address)
