"""The mesh's names and their addresses: one frozen table, replaced as a whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from isthmus.agent.dns.wire import WireError, suffixes, to_wire

MAX_ADDRESSES = 64
"""Of one name. An answer with more would not fit anywhere."""
MAX_PORTS = 256
WILDCARD = "*."


class RecordError(ValueError):
    """A name cannot be answered; the text says what is wrong with it."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One name, `reviews.default.mesh` or `*.shop.example`, its addresses as numbers, and its logical ports by their names."""

    name: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int], ...] = ()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record as it is answered: packed addresses, ports by their names as a label of a message."""

    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]
    ports: tuple[tuple[bytes, int], ...]

    @classmethod
    def of(cls, record: Record) -> Entry:
        """Read a record.

        Raises:
            RecordError: an address is no number, or there are too many addresses or ports.

        """
        if len(record.addresses) > MAX_ADDRESSES:
            raise RecordError(
                f"{record.name} has {len(record.addresses)} addresses; at most {MAX_ADDRESSES} are answered"
            )
        if len(record.ports) > MAX_PORTS:
            raise RecordError(f"{record.name} has {len(record.ports)} ports; at most {MAX_PORTS} are answered")
        try:
            packed = [_packed(a) for a in record.addresses]
        except ValueError:
            raise RecordError(f"{record.name} has an address that is none: {record.addresses}") from None
        ports = tuple(sorted((name.lower().encode(), port) for name, port in record.ports))
        return cls(tuple(a for a in packed if len(a) == 4), tuple(a for a in packed if len(a) == 16), ports)


@lru_cache(maxsize=4096)  # thousands of services share one
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def read(record: Record) -> tuple[bytes, Entry]:
    """The key of a record, and what it says; the key of `*.x` begins with a label `*`.

    Raises:
        RecordError: it cannot be answered.

    """
    try:
        return to_wire(record.name), Entry.of(record)
    except WireError as e:
        raise RecordError(str(e)) from None


class NameTable(msgspec.Struct, frozen=True):
    """All names of the mesh. Keys are names as they stand in messages.

    `exact` are names, `wildcards` what stands behind `*.`, `between` names that nothing has but something is below: those exist,
    and have no records (RFC 8020).
    """

    exact: Mapping[bytes, Entry] = {}
    wildcards: Mapping[bytes, Entry] = {}
    between: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[tuple[bytes, Entry]]) -> NameTable:
        """Make a table. Where two have the same name, the first has it."""
        exact: dict[bytes, Entry] = {}
        wildcards: dict[bytes, Entry] = {}
        between: set[bytes] = set()
        for name, entry in entries:
            if name.startswith(b"\x01*"):
                name = name[2:]  # noqa: PLW2901
                wildcards.setdefault(name, entry)
                between.add(name)
            else:
                exact.setdefault(name, entry)
            above = name[name[0] + 1 :]
            while len(above) > 1 and above not in between:
                between.add(above)
                above = above[above[0] + 1 :]
        return cls(exact, wildcards, frozenset(between))

    def find(self, name: bytes, search: frozenset[bytes]) -> Entry | None:
        """What a name stands for: itself, the longest wildcard above it, or what is left of it without a search domain."""
        entry = self.exact.get(name)
        if entry is not None:
            return entry
        for at in suffixes(name):
            if at and (entry := self.wildcards.get(name[at:])) is not None:
                return entry
        for at in suffixes(name):
            if at and name[at:] in search and (entry := self.exact.get(name[:at] + b"\0")) is not None:
                return entry
        return None
