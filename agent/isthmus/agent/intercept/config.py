"""The section `intercept` of agent.yaml, and the flags of `isthmus intercept`: Istio's, by their long names. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from isthmus.agent.duration import Duration

Mode = Literal["REDIRECT", "TPROXY"]
Backend = Literal["nft", "iptables-nft", "iptables-legacy"]
BackendChoice = Literal["auto", "nft", "iptables-nft", "iptables-legacy"]
Listed = str | int | tuple[str | int, ...]
"""`80,443` as on a command line, a single number, or a list of YAML."""


class InterceptConfigError(ValueError):
    """A value that cannot be used. `key` is the field's name, with underscores; it may be empty."""

    def __init__(self, key: str, reason: str) -> None:
        head, *rest = key.split("_")
        camel = head + "".join(word.title() for word in rest)
        self.path = (camel,) if key else ()
        super().__init__(f"{camel}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


class Intercept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What is captured. Ports, networks, users and interfaces are lists; where `*` may stand for all, it is said."""

    envoy_port: int = 15001
    """Where captured outbound connections go."""
    inbound_capture_port: int = 15006
    """Where captured inbound connections go."""
    proxy_uid: Listed = ""
    """Users as which Envoy and the agent run, by number or name; what they send is not captured. Needed."""
    proxy_gid: Listed = ""
    """Likewise, groups."""
    istio_inbound_interception_mode: Mode = "REDIRECT"
    """REDIRECT, or TPROXY for inbound connections that keep the caller's address."""
    istio_inbound_tproxy_mark: int = 1337
    istio_inbound_tproxy_route_table: int = 133
    istio_inbound_ports: Listed | None = None
    """Local ports whose connections are captured, or `*`; 22 and 15000 to 15099 never are. None: in agent.yaml, its services'."""
    istio_local_exclude_ports: Listed = ""
    """Local ports that are not captured in spite of `*`."""
    istio_service_cidr: Listed | None = None
    """Destinations whose connections are captured, or `*`. None: in agent.yaml all, unless `istioOutboundPorts` says which."""
    istio_service_exclude_cidr: Listed = ""
    istio_local_outbound_ports_exclude: Listed = ""
    istio_outbound_ports: Listed = ""
    """Ports that are captured whatever the destination is, unless it is an excluded one."""
    outbound_owner_users: Listed = "*"
    """Users whose connections are captured, by number or name, or `*`; together with the groups below."""
    outbound_owner_users_exclude: Listed = ""
    outbound_owner_groups: Listed = "*"
    outbound_owner_groups_exclude: Listed = ""
    kube_virt_interfaces: Listed = ""
    """Interfaces of containers and virtual machines (`docker0`): what comes in there is captured as if it were outbound."""
    istio_exclude_interfaces: Listed = ""
    """Interfaces on which nothing is captured, in or out."""
    virtual_ips: str = "127.64.0.0/10"
    """The mesh's own addresses, as the bridge has them (`mesh.virtual_ips`): on loopback, and captured whatever else is."""
    redirect_dns: bool = False
    """Questions to the servers of /etc/resolv.conf go to the agent's DNS."""
    capture_all_dns: bool = False
    """Questions to any server do."""
    dns_capture_port: int = 15053
    """Where the agent's DNS listens, on 127.0.0.1 and on ::1."""
    drop_invalid: bool = False
    """Drop TCP packets that belong to no connection, which would otherwise end captured ones."""
    dual_stack: bool | None = None
    """IPv6 too (true: it must be there; false: IPv4 alone). None: where this host has it."""
    backend: BackendChoice = "auto"
    iptables_probe_port: int = 15002
    """The port of the connection that is made to see whether it is captured."""
    probe_timeout: Duration = Duration(5)
    rollback_after: Duration = Duration(60)
    """For how long rules that nobody confirms stay."""
