"""What an operator may say about one Eureka."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from isthmus.registry.model import Protocol

Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=600)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class FeedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Eureka's servers send each change, when the bridge is among their peers (`eureka.client.service-url`).

    Raises:
        ValueError: `listen` is not `address:port`, or is open to others without a password.

    """

    listen: str
    """`address:port`, with a literal address. Who may write here may invent instances: only loopback goes without a password."""
    user: str = ""
    password: str = ""
    silent_after: Seconds = 60.0
    """Seconds without a heartbeat of any instance, after which the feed is taken for broken."""
    poll_interval: Seconds = 30.0
    """Seconds between polls while the feed works; they mend what it may have missed."""

    def __post_init__(self) -> None:
        host, port = self.address
        if bool(self.user) != bool(self.password):
            raise ValueError("feed: user and password, both or none")
        if ":" in self.user:
            raise ValueError(f"feed.user {self.user!r}: no colon in it, please (RFC 7617 section 2)")
        if not self.password and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(
                f"feed.listen {self.listen!r}: others than this machine can reach it, so user and password are needed "
                f"(Eureka's servers send them when their service-url is http://USER:PASSWORD@HOST:{port}/eureka/)"
            )

    def __repr__(self) -> str:
        return f"FeedConfig(listen={self.listen!r}, user={self.user!r})"

    @property
    def address(self) -> tuple[str, int]:
        """The address and the port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            host = ""
        if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise ValueError(f"feed.listen {self.listen!r}: expected ADDRESS:PORT, such as 10.0.0.5:8762")
        return host, int(port)


class EurekaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Eureka: its servers, who we are, what we read and how.

    Raises:
        ValueError: an address is not `http://host:port/path` or `https://...`, or options contradict each other.

    """

    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("http://127.0.0.1:8761/eureka",)
    """All servers of one Eureka, each with its path: `/eureka` (Spring Cloud) or `/eureka/v2` (Netflix)."""
    user: str = ""
    password: str = ""
    regions: tuple[str, ...] = ()
    """Remote regions to read as well; the servers must know them."""
    region: str = ""
    """The locality's region of what is read here; Eureka itself does not tell."""
    ca_file: str = ""
    """PEM file of the authorities that may sign the servers' certificates; empty: those of the system."""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    poll_interval: Seconds = 5.0
    """Seconds between reads of what changed. The servers' own cache is renewed every 30 s unless they are told otherwise."""
    full_interval: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 300.0
    """Seconds between complete listings."""
    timeout: Seconds = 10.0
    """Seconds without a byte after which a server is given up."""
    prefer: Literal["ip", "hostname"] = "ip"
    """Which of an instance's two addresses to call."""
    taper: bool = True
    """Whether an instance that missed its renewals gets less traffic before Eureka gives it up."""
    default_protocol: Protocol = Protocol.HTTP
    """For services that say nothing in the metadata `protocol`."""
    default_port: PortNumber = 80
    default_secure_port: PortNumber = 443
    """Logical ports of a service whose instances do not share one (README.md)."""
    conventions: tuple[Literal["spring"], ...] = ()
    """What other tools' metadata is read for (docs/conventions.md), beside what is read always (README.md)."""
    feed: FeedConfig | None = None

    def __post_init__(self) -> None:
        for i, address in enumerate(self.addresses):
            # A password in the address would be in every error text: it is refused, and not repeated here.
            if "@" in address:
                raise ValueError(
                    f"addresses[{i}]: no user or password in it, please; there are the keys user and password"
                )
            if not _is_base_url(address):
                raise ValueError(f"address {address!r}: expected http://host:port/eureka or https://host:port/eureka")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: both or none")
        if (self.ca_file or self.cert_file) and not all(a.startswith("https://") for a in self.addresses):
            raise ValueError("ca_file, cert_file and key_file need https:// addresses")
        if self.password and not self.user:
            raise ValueError("password: it needs a user")
        if ":" in self.user:
            raise ValueError(f"user {self.user!r}: no colon in it, please (RFC 7617 section 2)")

    def __repr__(self) -> str:
        return f"EurekaConfig(addresses={self.addresses!r}, user={self.user!r}, feed={self.feed!r})"


def _is_base_url(address: str) -> bool:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and not parts.query
        and not parts.fragment
    )
