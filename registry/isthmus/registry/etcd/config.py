"""What an operator may say about one etcd cluster."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from isthmus.registry.conventions import Convention
from isthmus.registry.etcd.template import Template
from isthmus.registry.model import Protocol

Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=600)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]

LayoutName = Literal["auto", "grpc", "go-micro", "go-kratos", "go-zero", "kitex", "skydns", "registrator", "template"]


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of the key space and how services are written in it.

    `prefix` is compared as text: `/services` also finds `/services-old/`. The empty prefix is everything.
    """

    prefix: str
    layout: LayoutName = "auto"
    """`auto`: the one known layout that explains a sample of the keys, which is logged and noted in each instance."""
    template: Template | None = None
    namespace: Word = "default"
    default_protocol: Protocol | None = None
    default_port: PortNumber | None = None

    def __post_init__(self) -> None:
        if (self.layout == "template") != (self.template is not None):
            raise ValueError(f"prefix {self.prefix!r}: `layout: template` and `template` belong together")


class EtcdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One etcd cluster: its members, who we are, which keys we read and how.

    Raises:
        ValueError: an endpoint is not `http://host:port` or `https://host:port`, or options contradict each other.

    """

    prefixes: Annotated[tuple[Prefix, ...], msgspec.Meta(min_length=1, max_length=100)]
    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=20)] = ("http://127.0.0.1:2379",)
    """The members' client URLs. One is used at a time, another one when it fails."""
    user: str = ""
    password: str = ""
    ca_file: str = ""
    """PEM file of the authorities that may sign the servers' certificates; empty: those that gRPC knows."""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    heartbeat: Seconds = 10.0
    """Seconds of silence after which the member in use is asked for a sign of life."""
    default_protocol: Protocol = Protocol.HTTP
    """For instances that name none."""
    default_port: PortNumber = 80
    """Logical port of services whose instances do not share one."""
    conventions: tuple[Convention, ...] = ()
    """What other tools' metadata and tags are read for (docs/conventions.md)."""

    def __post_init__(self) -> None:
        parts = [urlsplit(endpoint) for endpoint in self.endpoints]
        if any("@" in part.netloc for part in parts):
            # It would be in every error text: it is refused, and not repeated here.
            raise ValueError("endpoints: no user or password in them, please; there are `user` and `password`")
        for endpoint in self.endpoints:
            if not _is_base_url(endpoint):
                raise ValueError(f"endpoint {endpoint!r}: expected http://host:port or https://host:port")
        schemes = {part.scheme for part in parts}
        if len(schemes) > 1:
            raise ValueError("endpoints: all http:// or all https://")
        if schemes == {"http"} and (self.ca_file or self.cert_file or self.tls_server_name):
            raise ValueError("endpoints: TLS options need https:// endpoints")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: both or none")
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password: both or none")
        for one, other in combinations(self.prefixes, 2):
            if one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix):
                raise ValueError(f"prefixes {one.prefix!r} and {other.prefix!r}: one contains the other")

    def __repr__(self) -> str:
        return f"EtcdConfig(endpoints={self.endpoints!r}, prefixes={self.prefixes!r}, user={self.user!r})"

    @property
    def answer_within(self) -> float:
        """Seconds that a member has for one answer, connecting included."""
        return min(5.0, max(1.0, self.heartbeat / 2))

    @property
    def secure(self) -> bool:
        """Whether the members are spoken to by TLS."""
        return self.endpoints[0].startswith("https://")


def _is_base_url(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    try:
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and bool(port)
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
    )
