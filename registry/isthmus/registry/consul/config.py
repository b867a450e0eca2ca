"""What an operator may say about one Consul."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from isthmus.registry.conventions import Convention
from isthmus.registry.model import Protocol

MAX_PARTS = 16
"""Datacenters and peers that one registry may name."""

_PLACE = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?")

Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_PARTS)]
Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=600)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]

READERS = 15
"""Requests that may be under way beside the blocking queries: the initial listing, services to read again, sweeps."""

CHECKERS = 1
"""Requests for all checks."""

AUDITORS = 4
"""Requests of an audit, which may run beside an iteration."""

HINTS = 3
"""Blocking queries that say which services to read: the list of services, the checks that do not pass, the list of nodes."""

LEAST_CONNECTIONS = HINTS + CHECKERS + READERS + AUDITORS
LEAST_READS = 120
"""Per minute."""


class ConsulConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Consul: where it is, who we are, which part of it we read and how.

    Raises:
        ValueError: the address is not `http://host:port` or `https://host:port`, or options contradict each other.

    """

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    datacenter: str = ""
    """Empty: the agent's own. Likewise `namespace` and `partition`, which only Consul Enterprise knows."""
    datacenters: Names = ()
    """Several, each of which is an origin of its own (`parts`). Likewise `peers`, of which the imported services are read."""
    peers: Names = ()
    peer: str = ""
    """A cluster peering whose imported services are read, and no others."""
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
    agent_cache: bool = False
    """Whether blocking queries about services go through the agent's cache (`?cached`), so that its other clients share them."""
    heartbeat: Seconds = 10.0
    """The longest wait of the query on the list of services. A frozen agent is noticed after 17/16 of it and 2 seconds, which
    is also the limit for an answer that Consul has no reason to wait with."""
    max_connections: Annotated[int, msgspec.Meta(ge=LEAST_CONNECTIONS, le=10_000)] = 160
    """Consul's own limit is 200 per client address (`limits.http_max_conns_per_client`)."""
    max_reads_per_minute: Annotated[int, msgspec.Meta(ge=LEAST_READS, le=10_000_000)] = 60_000
    """A quarter of them may be made at once (budget.py): enough for a sweep of 7,000 services."""
    default_protocol: Protocol = Protocol.HTTP
    """For services that say nothing in `Service.Meta` or by a tag `protocol=...`."""
    default_port: PortNumber = 80
    """Logical port of a service that declares none and whose instances do not share one (README.md)."""
    conventions: tuple[Convention, ...] = ("k=v",)
    """What other tools' tags and metadata are read for (docs/conventions.md)."""

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.address)
        except ValueError:
            url = urlsplit("")
        # A password in the address would be in every error text: it is refused, and not repeated here.
        if "@" in self.address:
            raise ValueError("address: no user or password in it, please; Consul takes a token")
        if not _is_base_url(url):
            raise ValueError(f"address {self.address!r}: expected http://host:port or https://host:port")
        if any(not "!" <= c <= "~" for c in self.token):
            raise ValueError("token: it has characters that no token has (a line's end, perhaps?)")
        if self.agent_cache and self.consistency == "consistent":
            raise ValueError("agent_cache: a cached answer cannot be consistent; leave out one of the two")
        if bool(self.datacenter) + bool(self.datacenters) + bool(self.peer) > 1 or (self.peer and self.peers):
            raise ValueError("datacenter, datacenters and peer: one of them; and peer or peers")
        if "*" in (self.namespace, self.partition):
            raise ValueError("namespace and partition: one of each, and not *; each other one is a registry of its own")
        names = (*self.datacenters, *self.peers)
        if not all(map(_PLACE.fullmatch, (*names, self.datacenter or "-", self.peer or "-"))) or len(set(names)) < len(
            names
        ):
            raise ValueError(
                "datacenters and peers: expected names of letters, digits, -, _ and dots, each of them once"
            )
        for option, least in (("max_connections", LEAST_CONNECTIONS), ("max_reads_per_minute", LEAST_READS)):
            if getattr(self, option) < least * self._count:
                raise ValueError(
                    f"{option}: expected at least {least} for each of the {self._count} datacenters and peers"
                )
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: both or none")
        if url.scheme == "http" and (self.ca_file or self.cert_file or self.tls_server_name):
            raise ValueError(f"address {self.address!r}: TLS options need an https:// address")

    def __repr__(self) -> str:
        return f"ConsulConfig(address={self.address!r}, datacenter={self.datacenter!r}, token={'***' if self.token else ''!r})"

    @property
    def _count(self) -> int:
        return max(1, len(self.datacenters) + len(self.peers) + bool(self.peers and not self.datacenters))

    @property
    def watched(self) -> int:
        """How many services can have a blocking query of their own."""
        return self.max_connections - LEAST_CONNECTIONS


_Any = TypeVar("_Any", bound=ConsulConfig)


def parts(config: _Any) -> tuple[tuple[str, _Any], ...]:
    """One configuration for each datacenter and each peer that is named, by its name; `config` itself, by none, where none is.

    Each is an origin of its own, since each can be unreachable, stale or filtered while the others are not. They ask the same
    agent, so connections and reads are divided among them. Beside `peers` alone, the agent's own datacenter is read too.
    """
    datacenters = config.datacenters or ((config.datacenter,) if config.peers else ())
    found = [(name, {"datacenter": name}) for name in datacenters] + [(name, {"peer": name}) for name in config.peers]
    if not found:
        return (("", config),)
    share = {
        "max_connections": config.max_connections // len(found),
        "max_reads_per_minute": config.max_reads_per_minute // len(found),
    }
    alone: dict[str, Any] = {"datacenters": (), "peers": (), "datacenter": "", "peer": "", **share}
    return tuple((name, msgspec.structs.replace(config, **{**alone, **only})) for name, only in found)


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
