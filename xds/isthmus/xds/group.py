"""What may differ between proxies: proxies of one group are served the same resource snapshot, and share every byte of it."""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.Enum):
    """What a client of the xDS server is."""

    ENVOY = "envoy"
    GRPC = "grpc"
    """A gRPC library that follows the mesh's configuration itself, without a proxy."""
    AGENT = "agent"
    """The agent beside a workload, which wants the names that its DNS answers."""


class Outbound(enum.Enum):
    """Which listeners an Envoy has for what leaves the workload. All have those of TCP services, at their own addresses."""

    LISTENER = "listener"
    """One for all of HTTP, on the mesh's outbound address."""
    ADDRESSES = "addresses"
    """Beside that, one for each HTTP port at the addresses that names resolve to: the shared one, and those of services."""
    CAPTURED = "captured"
    """As ADDRESSES, without the one for all; traffic is redirected to the proxy, and there is one for each HTTP port of it."""
    EXPLICIT = "explicit"
    """Its bootstrap has one for HTTP, and it asks for no others. Served as LISTENER."""
    NONE = "none"
    """It calls nobody, and asks for nothing. Served as LISTENER."""

    @classmethod
    def of(cls, metadata: str) -> Outbound | None:
        """What `OUTBOUND` in a node's metadata says, in capitals as there; None if it is unknown."""
        return _BY_METADATA.get(metadata)


_BY_METADATA = {"": Outbound.LISTENER} | {o.name: o for o in Outbound if o is not Outbound.LISTENER}


class ProxyGroup(msgspec.Struct, frozen=True):
    """What a client's node says that its configuration depends on. `outbound` is said by Envoys alone."""

    kind: Kind
    outbound: Outbound = Outbound.LISTENER


AGENT_NAME = "isthmus-agent"
"""How the agent calls itself in `user_agent_name`."""


def group_of(user_agent_name: str, outbound: str = "") -> ProxyGroup:
    """The group of a client by its node's `user_agent_name` and, for an Envoy, the `OUTBOUND` of its metadata.

    gRPC's libraries call themselves "gRPC C-core", "gRPC Go", … An Envoy whose `OUTBOUND` is unknown is served as if it had none.
    """
    if user_agent_name.lower().startswith("grpc"):
        return ProxyGroup(Kind.GRPC)
    if user_agent_name == AGENT_NAME:
        return ProxyGroup(Kind.AGENT)
    return ProxyGroup(Kind.ENVOY, Outbound.of(outbound) or Outbound.LISTENER)
