"""Protobuf's fields, joined by hand from bytes that exist already.

See https://protobuf.dev/programming-guides/encoding/. In the order of their numbers, and without those that are zero and have no
presence, they are what protobuf writes itself. The order of a map's entries is protobuf's own affair.
"""

from __future__ import annotations

_VARINT, _LENGTH_DELIMITED = 0, 2
_ONE_BYTE = tuple(bytes((n,)) for n in range(128))
_SHORT = tuple(bytes((number << 3 | _LENGTH_DELIMITED, length)) for number in range(16) for length in range(128))


def field(number: int, *parts: bytes) -> bytes:
    """A field of strings, bytes or an embedded message, its value given in parts."""
    value = b"".join(parts)
    return header(number, len(value)) + value


def header(number: int, length: int) -> bytes:
    """What stands before such a value."""
    if number < 16 and length < 128:
        return _SHORT[number << 7 | length]
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def integer(number: int, value: int) -> bytes:
    """A field of an unsigned number or an enumeration."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    if value < len(_ONE_BYTE):
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
