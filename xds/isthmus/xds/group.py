"""What may differ between proxies: proxies of one group are served the same resource snapshot, and share every byte of it."""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.Enum):
    """What a client of the xDS server is."""

    ENVOY = "envoy"
    GRPC = "grpc"
    """A gRPC library that follows the mesh's configuration itself, without a proxy."""


class ProxyGroup(msgspec.Struct, frozen=True):
    """What a client's node says that its configuration depends on."""

    kind: Kind


def group_of(user_agent_name: str) -> ProxyGroup:
    """The group of a client by its node's `user_agent_name`: gRPC's libraries call themselves "gRPC C-core", "gRPC Go", …"""
    return ProxyGroup(Kind.GRPC if user_agent_name.lower().startswith("grpc") else Kind.ENVOY)
