"""Virtual IPs of services: loopback addresses that never change once given.

Callers of a TCP service connect to its address, so an address must outlive every restart: the caller keeps what `allocate`
returned and gives it back as `known`. A new name gets the address its hash names, or the next free one; two bridges that
know the same and see the same names agree. The first host of the network is nobody's: all HTTP services are reached at it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

NETWORK = "127.64.0.0/10"
"""Loopback on every Linux, and away from the 127.0.0.0/16 that people use by hand."""


class VirtualIPError(ValueError):
    """Addresses cannot be given out; the text says which entry is wrong or that the network is full."""


def shared_address(network: str = NETWORK) -> str:
    """The address that all services have in common that speak only HTTP: the first host of the network."""
    return str(ipaddress.IPv4Network(network).network_address + 1)


def allocate(known: Mapping[str, str], names: Iterable[str], network: str = NETWORK) -> dict[str, str]:
    """All of `known`, and an address for each name that has none yet.

    The first and the last address of the network are never given, nor is the shared one; a name that has it by `known` keeps it.

    Raises:
        VirtualIPError: `known` has an address outside the network or one address twice, or the network is full.

    """
    subnet = ipaddress.IPv4Network(network)
    first = int(subnet.network_address) + 1
    size = subnet.num_addresses - 2
    reserved = {first}
    allocated = dict(known)
    owners: dict[int, str] = {}
    for name, text in known.items():
        number = _number(name, text, subnet)
        other = owners.setdefault(number, name)
        if other != name:
            raise VirtualIPError(f"virtual IP {text} is recorded for both {other!r} and {name!r}; remove one of them")
    for name in sorted(set(names).difference(known)):
        if len(owners.keys() | reserved) >= size:
            raise VirtualIPError(
                f"no virtual IP is left for {name!r}: all {size - 1} addresses of {network} are taken; "
                "remove records of services that are gone, or configure a larger network"
            )
        offset = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % size
        while first + offset in owners or first + offset in reserved:
            offset = (offset + 1) % size
        owners[first + offset] = name
        allocated[name] = str(ipaddress.IPv4Address(first + offset))
    return allocated


def reconcile(stored: Mapping[str, str], mine: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the store has and what this bridge has given out, as one record, and which of the latter cannot stay.

    The store's word holds. What it lacks, since it was made anew or restored from a backup, is added, unless another name has the
    address there: such names, and those with another address in the store, are returned with the address that they had.
    """
    taken = set(stored.values())
    united, displaced = dict(stored), {}
    for name, address in mine.items():
        if stored.get(name) == address:
            continue
        if name in stored or address in taken:
            displaced[name] = address
        else:
            united[name] = address
    return united, displaced


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
