"""What an agent says of itself on its status port, for `isthmus agent wait` and for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class EnvoyStatus(msgspec.Struct, frozen=True):
    """The agent's Envoy; pid 0 when none runs. `problem` says why it is not as configured."""

    pid: int
    epoch: int
    version: str
    restarts: int
    problem: str


class ServiceStatus(msgspec.Struct, frozen=True):
    """A service of the agent; `healthy` is None until the first verdict."""

    id: str
    service: str
    healthy: bool | None
    why: str
    unregistered: str = ""
    """Why the registry does not have it; empty when it has, or somebody else registers it."""


class AgentStatus(msgspec.Struct, frozen=True):
    """All of it. `missing` are the reasons why it is not ready; `problems` are those that do not stop it from being."""

    node: str
    address: str
    ready: bool
    draining: bool
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    envoy: EnvoyStatus
    services: tuple[ServiceStatus, ...]
    dns: bool | None
    """Whether the mesh's names are answered; None when the agent has no DNS server."""
    upstreams: Mapping[str, int]
    """Healthy members of each cluster that Envoy knows, by its name; empty unless asked for."""
