"""Where the agent registers its services, as an operator writes it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from isthmus.agent.duration import Duration

Addresses = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=20)]


class ConsulRegistration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="type", tag="consul"
):
    """The Consul agent that the services become services of: mostly the one on this machine.

    Raises:
        ValueError: an option contradicts another one, or cannot be; likewise of the other kinds.

    """

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    namespace: str = ""
    """Empty: the token's own. Likewise `partition`. Only Consul Enterprise knows either."""
    partition: str = ""
    ttl: Duration = Duration(30)
    """How long after the agent's last word an instance counts as unhealthy. It speaks three times as often."""
    deregister_critical_service_after: Duration = Duration(3600)
    """When Consul forgets an instance that is unhealthy for so long; at least a minute, or 0 for never."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        _check_addresses((self.address,), self.ca_file, self.cert_file, self.key_file, server_name=self.tls_server_name)
        _check_secret("token", self.token)
        _check_time("ttl", self.ttl)
        if 0 < self.deregister_critical_service_after < 60:
            raise ValueError(
                "deregisterCriticalServiceAfter: expected at least 1m, which is Consul's least, or 0s for never"
            )

    def __repr__(self) -> str:
        return f"ConsulRegistration(address={self.address!r})"


class EurekaRegistration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="type", tag="eureka"
):
    """The servers of one Eureka, each with its path: `/eureka` (Spring Cloud) or `/eureka/v2` (Netflix)."""

    addresses: Addresses = ("http://127.0.0.1:8761/eureka",)
    user: str = ""
    password: str = ""
    heartbeat: Duration = Duration(30)
    """Between renewals of the leases. A lease lasts three times as long, by its own account; Eureka grants it more."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        _check_addresses(self.addresses, self.ca_file, self.cert_file, self.key_file)
        _check_secret("password", self.password)
        _check_time("heartbeat", self.heartbeat)
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password: both or none")
        if ":" in self.user:
            raise ValueError(f"user {self.user!r}: no colon in it, please (RFC 7617 section 2)")

    def __repr__(self) -> str:
        return f"EurekaRegistration(addresses={self.addresses!r}, user={self.user!r})"


class EtcdRegistration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="type", tag="etcd"
):
    """The members of one etcd cluster, and where in it the services are written, as Kratos writes them (docs/etcd.md)."""

    endpoints: Addresses = ("http://127.0.0.1:2379",)
    prefix: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] = "/microservices/"
    namespace: str = "default"
    """The namespace that the readers of the prefix take its services to be of."""
    user: str = ""
    password: str = ""
    ttl: Duration = Duration(30)
    """How long a lease lasts without the agent. It is renewed three times as often."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""

    def __post_init__(self) -> None:
        _check_addresses(
            self.endpoints,
            self.ca_file,
            self.cert_file,
            self.key_file,
            server_name=self.tls_server_name,
            what="endpoint",
        )
        _check_time("ttl", self.ttl)
        if any(urlsplit(e).path not in ("", "/") for e in self.endpoints):
            raise ValueError("endpoints: expected http://host:port or https://host:port, without a path")
        if len({urlsplit(e).scheme for e in self.endpoints}) > 1:
            raise ValueError("endpoints: all http:// or all https://")
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password: both or none")

    def __repr__(self) -> str:
        return f"EtcdRegistration(endpoints={self.endpoints!r}, prefix={self.prefix!r}, user={self.user!r})"


class BridgeRegistration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="type", tag="bridge"
):
    """The bridge itself, for those who have no registry: its replicas, which share a store."""

    addresses: Addresses = ("http://127.0.0.1:15014",)
    token: str = ""
    """The bridge's `http.token`."""
    ttl: Duration = Duration(30)
    """How long the bridge keeps a workload without the agent, which speaks three times as often."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True

    def __post_init__(self) -> None:
        _check_addresses(self.addresses, self.ca_file, self.cert_file, self.key_file)
        _check_secret("token", self.token)
        _check_time("ttl", self.ttl, 3600)

    def __repr__(self) -> str:
        return f"BridgeRegistration(addresses={self.addresses!r})"


class NoRegistration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="type", tag="none"
):
    """Somebody else registers the services: the `service` blocks of a Nomad job, for one."""


Registration = ConsulRegistration | EurekaRegistration | EtcdRegistration | BridgeRegistration | NoRegistration
"""By the key `type`: `consul`, `eureka`, `etcd`, `bridge` or `none`."""


def _check_addresses(
    addresses: Sequence[str],
    ca_file: str,
    cert_file: str,
    key_file: str,
    *,
    server_name: str = "",
    what: str = "address",
) -> None:
    for address in addresses:
        # A password in the address would be in every error text: it is refused, and not repeated here.
        if "@" in address:
            raise ValueError(f"{what}: no user, password or token in it, please; there are keys of their own for them")
        if not _is_base_url(address):
            raise ValueError(f"{what} {address!r}: expected http://host:port or https://host:port")
        if address.startswith("http:") and (ca_file or cert_file or server_name):
            raise ValueError(f"{what} {address!r}: TLS options need https://")
    if bool(cert_file) != bool(key_file):
        raise ValueError("certFile and keyFile: both or none")


def _check_secret(name: str, secret: str) -> None:
    if any(not " " <= c <= "~" for c in secret):
        raise ValueError(f"{name}: it has characters that none has (a line's end, perhaps?)")


def _check_time(name: str, time: Duration, most: int = 86400) -> None:
    if not 1 <= time <= most:
        raise ValueError(f"{name} {time}: expected 1s to {most // 3600}h")


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
