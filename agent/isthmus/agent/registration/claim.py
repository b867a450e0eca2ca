"""What is registered: a service of this agent, and what the agent says of it at a moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.conventions import DeclaredPort
from isthmus.registry.model import Health, Locality, Protocol


class Registered(msgspec.Struct, frozen=True):
    """One instance that the agent registers.

    `ports` are where callers reach it, by the name of the port, the main one first: the proxy's, where inbound goes through
    Envoy. `numbers` are what callers name, where that is another number; `protocols` are http where none is said.

    Raises:
        ValueError: it has no port, or names one that it has not.

    """

    id: str
    """Of its own in the registry: it tells this instance of the service from others, also after a restart."""
    service: str
    namespace: str
    address: str
    ports: Mapping[str, int]
    protocols: Mapping[str, Protocol] = {}
    weight: int = 1
    labels: Mapping[str, str] = {}
    locality: Locality = Locality()
    numbers: Mapping[str, int] = {}

    def __post_init__(self) -> None:
        if not self.ports:
            raise ValueError(f"service {self.service}: it has no port to be called at")
        for name in (*self.protocols, *self.numbers):
            if name not in self.ports:
                raise ValueError(
                    f"service {self.service}: there is no port {name!r}; there are {', '.join(self.ports)}"
                )

    @property
    def declared(self) -> tuple[DeclaredPort, ...]:
        """Its ports in full, the main one first."""
        return tuple(
            DeclaredPort(name, self.numbers.get(name, here), here, self.protocols.get(name, Protocol.HTTP))
            for name, here in self.ports.items()
        )


class Claim(msgspec.Struct, frozen=True):
    """What the agent says: this instance is mine, by this epoch, and is as healthy as that.

    UNKNOWN health is that of an instance whose first verdict is still to come: what the registry says of it stays, if it says
    anything, so that the restart of an agent is no gap; otherwise it is unhealthy.
    """

    service: Registered
    epoch: int
    health: Health = Health.UNKNOWN
    why: str = ""
