"""Addresses on the command line."""

from __future__ import annotations

from isthmus.cli.output import CommandError


def split(option: str, address: str) -> tuple[str, int]:
    """`HOST:PORT` in its parts, without the brackets of an IPv6 address.

    Raises:
        CommandError: it is something else.

    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536
    if not (bare and valid and bare.isprintable() and not set(bare) & set(" /@?#")) or (":" in bare and bare == host):
        raise CommandError(f"{option} {address!r}: expected HOST:PORT, such as 127.0.0.1:15010 or [::1]:15010", 2)
    return bare, int(port)
