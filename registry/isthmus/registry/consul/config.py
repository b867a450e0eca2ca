"""What an operator may say about one Consul."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from isthmus.registry.model import Protocol

Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=600)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]

READERS = 16
"""Requests that may be under way beside the blocking queries: the initial listing, services to read again, sweeps."""

AUDITORS = 4
"""Requests of an audit, which may run beside an iteration."""

HINTS = 2
"""Blocking queries that say which services to read: the list of services and the checks that do not pass."""


class ConsulConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Consul: where it is, who we are, which part of it we read and how.

    Raises:
        ValueError: the address is not `http://host:port` or `https://host:port`, or options contradict each other.

    """

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    datacenter: str = ""
    """Empty: the agent's own. Likewise `namespace` and `partition`, which only Consul Enterprise knows."""
    namespace: str = ""
    partition: str = ""
    ca_file: str = ""
    """PEM file of the authorities that may sign the server's certificate; empty: those of the system."""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    verify: bool = True
    consistency: Literal["stale", "default", "consistent"] = "stale"
    """`stale`: any server may answer, also while there is no leader."""
    max_stale: Seconds = 60.0
    """Seconds since the answering server last heard of a leader, above which its answer is refused."""
    heartbeat: Seconds = 10.0
    """The longest wait of the query on the list of services. A frozen agent is noticed after 17/16 of it and 2 seconds, which
    is also the limit for an answer that Consul has no reason to wait with."""
    max_connections: Annotated[int, msgspec.Meta(ge=HINTS + READERS + AUDITORS, le=10_000)] = 160
    """Consul's own limit is 200 per client address (`limits.http_max_conns_per_client`)."""
    default_protocol: Protocol = Protocol.HTTP
    """For services that say nothing in `Service.Meta` or by a tag `protocol=...`."""
    default_port: PortNumber = 80
    """Logical port of a service that declares none and whose instances do not share one (README.md)."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
        except ValueError:
            parts = urlsplit("")
        # A password in the address would be in every error text: it is refused, and not repeated here.
        if "@" in self.address:
            raise ValueError("address: no user or password in it, please; Consul takes a token")
        if not _is_base_url(parts):
            raise ValueError(f"address {self.address!r}: expected http://host:port or https://host:port")
        if any(not "!" <= c <= "~" for c in self.token):
            raise ValueError("token: it has characters that no token has (a line's end, perhaps?)")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: both or none")
        if parts.scheme == "http" and (self.ca_file or self.cert_file or self.tls_server_name):
            raise ValueError(f"address {self.address!r}: TLS options need an https:// address")

    def __repr__(self) -> str:
        return f"ConsulConfig(address={self.address!r}, datacenter={self.datacenter!r}, token={'***' if self.token else ''!r})"

    @property
    def watched(self) -> int:
        """How many services can have a blocking query of their own."""
        return self.max_connections - HINTS - READERS - AUDITORS


def _is_base_url(parts: SplitResult) -> bool:
    try:
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
    )
