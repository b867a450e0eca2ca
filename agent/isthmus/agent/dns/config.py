"""The section `dns` of agent.yaml. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import msgspec

from isthmus.agent.dns.wire import WireError, to_wire
from isthmus.agent.duration import Duration

PORT = 53
LISTEN = "127.0.0.1:15053"


class DnsConfigError(ValueError):
    """A value that cannot be used; `path` leads to it within the section."""

    def __init__(self, path: tuple[str | int, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {reason}")
        self.path = path
        self.reason = reason


class Address(NamedTuple):
    """Where a DNS server is; the host is a number, with a scope (`fe80::1%eth0`) where it needs one."""

    host: str
    port: int

    def __str__(self) -> str:
        """`127.0.0.1:53`, `[::1]:53`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DnsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How names are answered on this machine."""

    enabled: bool = True
    """False: nobody answers the mesh's names on this machine, whatever else is written here."""
    listen: tuple[str, ...] = (LISTEN,)
    """Addresses for UDP and TCP, `127.0.0.1:15053` or `[::1]:15053`. Not 0.0.0.0: an answer must leave from the address asked."""
    upstream: tuple[str, ...] = ()
    """Servers for all other names, `192.0.2.1` or `192.0.2.1:53`. None: those of /etc/resolv.conf."""
    search: tuple[str, ...] | None = None
    """Domains that a caller's resolver puts behind a short name. None: those of /etc/resolv.conf."""
    domains: tuple[str, ...] = ("mesh",)
    """What is below these is the mesh's alone: a name that does not exist there exists nowhere. The bridge's `mesh.domain`."""
    ttl: Duration = Duration(30)
    """How long callers may keep an answer."""
    timeout: Duration = Duration(1.5)
    """For an answer of one upstream; then it is asked once more, or the next one is."""


def check(config: DnsConfig) -> None:
    """Refuse what the types cannot.

    Raises:
        DnsConfigError: an address, a domain or a time cannot be used.

    """
    listening(config)
    upstreams(config)
    for key, domains in (("search", config.search or ()), ("domains", config.domains)):
        for i, domain in enumerate(domains):
            try:
                to_wire(domain)
            except WireError as e:
                raise DnsConfigError((key, i), str(e)) from None
    if not 0 <= config.ttl <= 86400:
        raise DnsConfigError(("ttl",), f"{config.ttl}: expected at most a day (24h)")
    if not 0.05 <= config.timeout <= 30:
        raise DnsConfigError(("timeout",), f"{config.timeout}: expected from 50ms to 30s")


def listening(config: DnsConfig) -> tuple[Address, ...]:
    """Where to listen.

    Raises:
        DnsConfigError: there is no address, or one that cannot be used.

    """
    if not config.listen:
        raise DnsConfigError(("listen",), f"expected at least one address, such as {LISTEN}")
    found = []
    for i, text in enumerate(config.listen):
        address = parse_address(text, None)
        if address is None:
            raise DnsConfigError(("listen", i), f"{text!r}: expected address:port, such as {LISTEN} or [::1]:15053")
        if ipaddress.ip_address(address.host.partition("%")[0]).is_unspecified:
            reason = "expected one address of this machine: an answer has to leave from the address that was asked"
            raise DnsConfigError(("listen", i), f"{text!r}: {reason}")
        found.append(address)
    return tuple(found)


def upstreams(config: DnsConfig) -> tuple[Address, ...]:
    """The servers that are named for all other names; none when resolv.conf is to say.

    Raises:
        DnsConfigError: one of them cannot be used.

    """
    found = []
    for i, text in enumerate(config.upstream):
        address = parse_address(text, PORT)
        if address is None:
            raise DnsConfigError(("upstream", i), f"{text!r}: expected an address, such as 192.0.2.1 or 192.0.2.1:53")
        found.append(address)
    return tuple(found)


def parse_address(text: str, port: int | None) -> Address | None:
    """Read `192.0.2.1:53`, `[::1]:53` and, when there is a port that goes without saying, `192.0.2.1` and `::1`."""
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, digits = text, ""
    if digits:
        if not (digits.isascii() and digits.isdecimal() and int(digits[:6]) <= 65535):
            return None
        number = int(digits)
    elif port is None or text.endswith(":"):
        return None
    else:
        number = port
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        return None
    return Address(str(ip), number)
