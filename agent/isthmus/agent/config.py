"""agent.yaml, as a frozen value. Pure. Names are Istio's where Istio has the setting (docs/agent.md).

discoveryAddress: 127.0.0.1:15010
address: 10.0.0.5
services:
- name: reviews
  ports: [{name: http, port: 9080, target: 127.0.0.1:9081}]

A file may hold an Istio WorkloadGroup in place of this: see `isthmus.agent.workload`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.duration import Duration
from isthmus.agent.intercept.config import Intercept
from isthmus.agent.probe.config import Probe
from isthmus.agent.registration.config import NoRegistration, Registration
from isthmus.registry.conventions.protocols import protocol_of_port_name
from isthmus.registry.model import Locality, Protocol
from isthmus.registry.settings import AtError, split_address

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
OptionalPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0: there is none."""

LONGEST_PATH = 96
"""Bytes of `configPath` where the admin page's socket is made in it: its path may have 107 (unix(7))."""


class Target(msgspec.Struct, frozen=True):
    """Where an application listens: an address and a port, or the path of a socket and port 0."""

    address: str
    port: int


class PortConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A port of a service on this machine."""

    port: PortNumber
    """The number that callers name, the same on every machine."""
    name: str = ""
    """By default the protocol."""
    protocol: Protocol | None = None
    """By default what the name says by Istio's convention (`grpc-api` is gRPC), and otherwise TCP."""
    target: str = ""
    """Where the application listens: `127.0.0.1:9081`, `unix:///run/app.sock`. By default 127.0.0.1 and `port`."""
    inbound: OptionalPort | None = None
    """The proxy's port for it, by default `port`; 0 when callers shall come to the application directly."""

    @property
    def protocol_spoken(self) -> Protocol:
        return self.protocol or protocol_of_port_name(self.name) or Protocol.TCP

    @property
    def title(self) -> str:
        return self.name or self.protocol_spoken.value

    @property
    def inbound_port(self) -> int:
        return self.port if self.inbound is None else self.inbound

    def at(self) -> Target:
        """Where the application listens.

        Raises:
            AtError: `target` says something that is neither.

        """
        if not self.target:
            return Target("127.0.0.1", self.port)
        if self.target.startswith("unix:"):
            path = self.target.removeprefix("unix:")
            path = path.removeprefix("//")
            if not path.startswith("/") or len(path.encode()) > 107:
                raise AtError(
                    ["target"], f"{self.target!r}: expected an absolute path of at most 107 bytes after unix://"
                )
            return Target(path, 0)
        host, port = split_address(self.target, ["target"])
        try:
            return Target(str(ipaddress.ip_address(host)), port)
        except ValueError:
            raise AtError(
                ["target"], f"{self.target!r}: expected an IP address and a port, such as 127.0.0.1:9081"
            ) from None


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A service of which an instance runs on this machine."""

    name: str
    ports: Annotated[tuple[PortConfig, ...], msgspec.Meta(min_length=1)]
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    weight: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 1
    probe: Probe | None = None
    """How the agent finds out whether the application is well; without one it counts as well."""
    metrics: str = ""
    """Where the application serves Prometheus metrics, `http://127.0.0.1:9081/metrics`; they are merged into the agent's."""


class OutboundConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How calls of this machine's programs reach the proxy when they are not intercepted.

    ADDRESSES: each service has an address in the mesh's own range, and names lead there (`dns`). EXPLICIT: one HTTP listener that
    routes by host name. NONE: not at all.
    """

    mode: Literal["ADDRESSES", "EXPLICIT", "NONE"] = "ADDRESSES"
    listen: str = "127.0.0.1:15001"
    """With EXPLICIT: where the listener is."""


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For a bridge that is reached over TLS: whom to trust, and who this machine is, where the bridge wants to know."""

    ca_file: str
    cert_file: str = ""
    key_file: str = ""


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole of agent.yaml."""

    discovery_address: str | tuple[str, ...] = "127.0.0.1:15010"
    """The bridge's xDS, host:port; or that of each of its replicas, any of which will do."""
    discovery_tls: TlsConfig | None = None
    """With files: the bridge is reached over TLS, and its certificate names the host of `discoveryAddress`."""
    node: str = ""
    """The name of this proxy; by default the host name."""
    service_cluster: str = ""
    """Envoy's service cluster; by default the first service, and `isthmus` where there is none."""
    locality: str = ""
    """`region/zone/sub_zone`, as much of it as there is."""
    address: str = ""
    """The IP address at which others reach this machine; by default the one from which it reaches `discoveryAddress`."""
    inbound_address: str = ""
    """Where the proxy takes calls; by default `address`. Behind address translation, the machine's own address, or 0.0.0.0."""
    binary_path: str = ""
    """The `envoy` program; by default the one on PATH."""
    config_path: str = "/var/lib/isthmus-agent"
    """Directory for the bootstrap, what is known of the running Envoy, and sockets."""
    concurrency: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 2
    """Worker threads of Envoy; 0 for one per CPU."""
    proxy_log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = "warning"
    drain_duration: Duration = Duration(45)
    """How long connections are asked to end when a listener goes or Envoy is replaced."""
    parent_shutdown_duration: Duration = Duration(60)
    """When an Envoy that was replaced ends, whatever is still open."""
    termination_drain_duration: Duration = Duration(5)
    """How long the agent waits between asking callers away and ending Envoy."""
    connect_timeout: Duration = Duration(1)
    proxy_admin_port: OptionalPort = 15000
    """Envoy's admin page on 127.0.0.1; 0 for a socket in `configPath` that the agent's user alone may open."""
    status_port: PortNumber = 15020
    readiness_port: OptionalPort = 15021
    envoy_prometheus_port: OptionalPort = 15090
    interception_mode: Literal["NONE", "REDIRECT", "TPROXY"] = "NONE"
    outbound: OutboundConfig = OutboundConfig()
    services: tuple[ServiceConfig, ...] = ()
    registration: Registration = NoRegistration()
    """Where the services are registered; by default somebody else does it."""
    dns: DnsConfig | None = None
    """What answers the names of the mesh on this machine; None: nothing does. A file that says nothing of it gets one by default
    where names lead to the proxy (`isthmus.agent.load`)."""
    intercept: Intercept | None = None
    """What is captured, with an `interceptionMode`."""

    @property
    def bridges(self) -> tuple[str, ...]:
        """Each `discoveryAddress`."""
        return (self.discovery_address,) if isinstance(self.discovery_address, str) else self.discovery_address

    @property
    def outbound_mode(self) -> str:
        """What the bridge is told (`OUTBOUND` in the node's metadata)."""
        return self.outbound.mode if self.interception_mode == "NONE" else "CAPTURED"

    @property
    def locality_levels(self) -> Locality | None:
        return Locality(*self.locality.split("/")) if self.locality else None
