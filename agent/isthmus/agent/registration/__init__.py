"""Making the services of this agent known: in Consul, Eureka or etcd, or to the bridge itself (docs/registration.md).

`config.py` what an operator writes · `claim.py` what is registered · `upkeep.py` when what is said · `registrar.py` all of it,
kept up · `place.py` what every registry does · `consul.py`, `eureka.py`, `etcd.py` and `bridge.py` the registries, `http.py` the
connection of most · `epoch.py` who came later. Pure are `config`, `claim` and `upkeep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.agent.registration.bridge import BridgePlace
from isthmus.agent.registration.claim import Registered
from isthmus.agent.registration.config import (
    BridgeRegistration,
    ConsulRegistration,
    EtcdRegistration,
    EurekaRegistration,
    NoRegistration,
    Registration,
)
from isthmus.agent.registration.consul import ConsulPlace
from isthmus.agent.registration.epoch import next_epoch
from isthmus.agent.registration.etcd import EtcdPlace
from isthmus.agent.registration.eureka import EurekaPlace
from isthmus.agent.registration.place import Place
from isthmus.agent.registration.registrar import Registrar, Standing

__all__ = [
    "BridgeRegistration",
    "ConsulRegistration",
    "EtcdRegistration",
    "EurekaRegistration",
    "NoRegistration",
    "Registered",
    "Registrar",
    "Registration",
    "Standing",
    "to_registrar",
]


def to_registrar(config: Registration, services: Sequence[Registered], node: str, state_dir: Path) -> Registrar:
    """The registrar of these services. Nothing is connected before it runs, but the epoch of this start is taken here.

    Args:
        config: where to register.
        services: what; none is registered healthy before `Registrar.report` says so.
        node: what this agent is called; ids have to be unlike those of other nodes.
        state_dir: where the epoch is kept.

    Raises:
        ValueError: two services have one id, or the registry has no place for something that one says.

    """
    ids = [s.id for s in services]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"services: {', '.join(twice)} is the id of two of them on {node}; each needs one of its own")
    place, namespace = _to_place(config)
    for service in services:
        if namespace and service.namespace != namespace:
            raise ValueError(
                f"service {service.service}: namespace {service.namespace!r}: what is registered here is read as of "
                f"namespace {namespace!r}; expected that one, or a registration in the bridge, which keeps any"
            )
    return Registrar(place, services, next_epoch(state_dir) if place else 0)


def _to_place(config: Registration) -> tuple[Place | None, str]:
    """The registry, and the only namespace that it has, if it has only one."""
    match config:
        case ConsulRegistration():
            return ConsulPlace(config), config.namespace or "default"
        case EurekaRegistration():
            return EurekaPlace(config), "default"
        case EtcdRegistration():
            return EtcdPlace(config), config.namespace
        case BridgeRegistration():
            return BridgePlace(config), ""
        case NoRegistration():
            return None, ""
