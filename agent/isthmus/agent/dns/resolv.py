"""resolv.conf: which servers and which search domains this machine has (resolv.conf(5))."""

from __future__ import annotations

from pathlib import Path

import msgspec

from isthmus.agent.dns.config import PORT, Address, parse_address
from isthmus.agent.dns.wire import WireError, to_wire

MAX_BYTES = 1 << 16
STUB = Address("127.0.0.53", PORT)
"""systemd-resolved's own; it knows the others."""
BEHIND_STUB = Path("run/systemd/resolve/resolv.conf")


class ResolvConf(msgspec.Struct, frozen=True):
    """What is used of it."""

    nameservers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: bytes) -> ResolvConf:
    """Read a resolv.conf. What cannot be understood is passed over, as by the C library."""
    nameservers: list[Address] = []
    search: tuple[str, ...] = ()
    for line in text.decode("utf-8", "replace").splitlines():
        match line.partition("#")[0].partition(";")[0].split():
            case ["nameserver", server, *_]:
                address = parse_address(server, PORT)
                if address is not None:
                    nameservers.append(address)
            case ["search" | "domain", *domains]:
                search = tuple(d for d in domains if _is_name(d))  # the last such line counts
            case _:
                pass
    return ResolvConf(tuple(nameservers), search)


def read_resolv_conf(root: Path = Path("/")) -> ResolvConf:
    """Read this machine's; where it names nobody but systemd-resolved, the servers that this one asks.

    That one asks us for the mesh's names once it is set up to, and must not be asked in our turn.
    """
    found = parse_resolv_conf(_read(root / "etc/resolv.conf"))
    if found.nameservers == (STUB,) and (behind := parse_resolv_conf(_read(root / BEHIND_STUB)).nameservers):
        return ResolvConf(behind, found.search)
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError:
        return b""


def _is_name(text: str) -> bool:
    try:
        return bool(to_wire(text))
    except WireError:
        return False
