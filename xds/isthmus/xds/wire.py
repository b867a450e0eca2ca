"""Protobuf's length-delimited fields, joined by hand from bytes that exist already."""

from __future__ import annotations

_LENGTH_DELIMITED = 2


def field(number: int, *parts: bytes) -> bytes:
    """A field of strings, bytes or an embedded message, its value given in parts."""
    return header(number, sum(map(len, parts))) + b"".join(parts)


def header(number: int, length: int) -> bytes:
    """What stands before such a value."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
