"""What an operator may say about one Nomad."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from isthmus.registry.model import Protocol

Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=600)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
TagConvention = Literal["k=v", "k|v", "k:v", "envoy-control", "fabio", "traefik"]

LONG = 4
"""Requests that stay open: the event stream and the one that replaces it, and blocking queries."""
READERS = 12
"""Services that are read at the same time."""
THREADS = 4
"""Reads of jobs, nodes and allocations at the same time, each in a thread of its own."""
POLLS = 16
"""Clients that are asked for check results at the same time."""


class NomadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Nomad: where it is, who we are, which part of it we read and how.

    Raises:
        ValueError: the address is not `http://host:port` or `https://host:port`, or options contradict each other.

    """

    address: str = "http://127.0.0.1:4646"
    token: str = ""
    token_file: str = ""
    """Instead of `token`: a file that holds it, read again whenever it changes, such as a workload identity's."""
    region: str = ""
    """Empty: the region of the agent that is asked."""
    namespace: str = "default"
    """`*`: every namespace that the token may read."""
    ca_file: str = ""
    """PEM file of the authorities that may sign the server's certificate; empty: those of the system."""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    verify: bool = True
    heartbeat: Seconds = 10.0
    """The longest wait of the blocking query on the namespaces. A frozen agent is noticed after 17/16 of it and 2 seconds, which
    is also the limit for an answer that Nomad has no reason to wait with."""
    check_interval: Seconds = 2.0
    """Seconds between two reads of the check results of one allocation (README.md: no other source tells them)."""
    check_rate: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 200.0
    """Reads of check results per second, of all allocations together: with more allocations than that the interval grows."""
    drain_limit: Seconds = 60.0
    """Seconds after its deregistration for which an instance is shown as draining while its allocation goes on running."""
    max_connections: Annotated[int, msgspec.Meta(ge=LONG + READERS + THREADS + POLLS, le=10_000)] = 60
    """Nomad's own limit is 100 per client address (`limits.http_max_conns_per_client`)."""
    default_protocol: Protocol = Protocol.HTTP
    """For services that say nothing by a tag `protocol=...`."""
    default_port: PortNumber = 80
    """Logical port of a service that declares none by a tag `port=...` and whose instances do not share one (README.md)."""

    conventions: tuple[TagConvention, ...] = ("k=v",)
    """What other tools' tags are read for (docs/conventions.md)."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
        except ValueError:
            parts = urlsplit("")
        # A password in the address would be in every error text: it is refused, and not repeated here.
        if parts.username is not None or parts.password is not None:
            raise ValueError("address: no user or password in it, please; Nomad takes a token")
        if not _is_base_url(parts):
            raise ValueError(f"address {self.address!r}: expected http://host:port or https://host:port")
        if self.token and self.token_file:
            raise ValueError("token and token_file: one of them")
        if not is_token(self.token):
            raise ValueError("token: it has characters that no token has (a line's end, perhaps?)")
        if not self.namespace:
            raise ValueError("namespace: a name, or * for all that the token may read")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: both or none")
        if parts.scheme == "http" and (self.ca_file or self.cert_file or self.tls_server_name):
            raise ValueError(f"address {self.address!r}: TLS options need an https:// address")

    def __repr__(self) -> str:
        token = "***" if self.token else self.token_file
        return f"NomadConfig(address={self.address!r}, namespace={self.namespace!r}, token={token!r})"


def is_token(text: str) -> bool:
    """Whether this can be sent as a header, as every token can."""
    return all("!" <= c <= "~" for c in text)


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
