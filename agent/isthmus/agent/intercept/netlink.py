"""What nf_tables holds of the two IP families, and removing what is empty in it, without the programs that are made for it.

`iptables-nft` makes the tables and base chains that it needs and leaves them when their last rule is gone. The kernel can remove
one under the condition that nothing is in it (NLM_F_NONREC), so whatever another program has put there meanwhile is safe; neither
`nft` nor `iptables-nft` can ask for that. Wire format: linux/netfilter/nf_tables.h and nfnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isthmus.agent.intercept.plan import Family

NUMBERS: dict[Family, int] = {"ipv4": 2, "ipv6": 10}

_NETLINK_NETFILTER = 12
_NF_TABLES = 10
_GET_TABLE, _DELETE_TABLE, _GET_CHAIN, _DELETE_CHAIN = 1, 2, 4, 5
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _ONLY_EMPTY = 0x1, 0x4, 0x300, 0x100
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_TIMEOUT = 5


class Held(NamedTuple):
    """A table (`chain` is empty) or a chain of one."""

    family: Family
    table: str
    chain: str = ""


def held() -> frozenset[Held]:
    """All tables and chains.

    Raises:
        OSError: the kernel has no nf_tables, or this process no right to ask.

    """
    found: set[Held] = set()
    with _connect() as connection:
        for family in NUMBERS:
            for attributes in _dump(connection, _GET_TABLE, family):
                found.add(Held(family, attributes[_TABLE_NAME]))
            for attributes in _dump(connection, _GET_CHAIN, family):
                found.add(Held(family, attributes[_CHAIN_TABLE], attributes[_CHAIN_NAME]))
    return frozenset(found)


def remove_empty(what: Held) -> bool:
    """Remove a table or a chain if nothing is in it; whether that was done.

    Raises:
        OSError: the kernel did not answer.

    """
    names = [(_CHAIN_TABLE, what.table), (_CHAIN_NAME, what.chain)] if what.chain else [(_TABLE_NAME, what.table)]
    return _change(_DELETE_CHAIN if what.chain else _DELETE_TABLE, _ONLY_EMPTY, what.family, names)


def remove_table(family: Family, name: str) -> bool:
    """Remove a table and all that is in it, at once; false if it is not there.

    Raises:
        OSError: the kernel did not answer.

    """
    return _change(_DELETE_TABLE, 0, family, [(_TABLE_NAME, name)])


def _connect() -> socket.socket:
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    connection.settimeout(_TIMEOUT)
    return connection


def _message(kind: int, flags: int, family: int, resource: int = 0, attributes: bytes = b"") -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _change(kind: int, flags: int, family: Family, names: Sequence[tuple[int, str]]) -> bool:
    attributes = b"".join(map(_string, names))
    batch = _message(_BATCH_BEGIN, _REQUEST, 0, _NF_TABLES)
    batch += _message(_NF_TABLES << 8 | kind, _REQUEST | _ACK | flags, NUMBERS[family], 0, attributes)
    batch += _message(_BATCH_END, _REQUEST, 0, _NF_TABLES)
    with _connect() as connection:
        connection.send(batch)
        for number, body in _messages(connection):
            if number == _ERROR:
                return bool(struct.unpack_from("=i", body)[0] == 0)
    raise OSError("the kernel did not answer")


def _dump(connection: socket.socket, kind: int, family: Family) -> Iterator[dict[int, str]]:
    connection.send(_message(_NF_TABLES << 8 | kind, _REQUEST | _DUMP, NUMBERS[family]))
    for number, body in _messages(connection):
        if number == _DONE:
            return
        if number == _ERROR:
            raise OSError(-struct.unpack_from("=i", body)[0], "nf_tables cannot be read")
        yield _strings(body[4:])


def _messages(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    while received := connection.recv(1 << 20):
        at = 0
        while at + 16 <= len(received):
            length, kind = struct.unpack_from("=IH", received, at)
            yield kind, received[at + 16 : at + length]
            at += max(16, (length + 3) & ~3)


def _string(attribute: tuple[int, str]) -> bytes:
    kind, text = attribute
    value = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _strings(body: bytes) -> dict[int, str]:
    """Every attribute as if it were text; the names are."""
    found: dict[int, str] = {}
    at = 0
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        found[kind & 0x3FFF] = body[at + 4 : at + length].rstrip(b"\0").decode(errors="replace")
        at += max(4, (length + 3) & ~3)
    return found
