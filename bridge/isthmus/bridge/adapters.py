"""From a registry's settings to its adapter."""

from __future__ import annotations

from isthmus.bridge.config import (
    ConsulRegistry,
    EtcdRegistry,
    EurekaRegistry,
    FileRegistry,
    NetworkRegistry,
    NomadRegistry,
    Registry,
    WorkloadsRegistry,
)
from isthmus.registry.adapter import Adapter
from isthmus.registry.consul import ConsulAdapter
from isthmus.registry.etcd import EtcdAdapter
from isthmus.registry.eureka import EurekaAdapter
from isthmus.registry.file import FileAdapter
from isthmus.registry.kv.edge import Store
from isthmus.registry.model import Origin
from isthmus.registry.nomad import NomadAdapter
from isthmus.registry.origin import OriginStatus
from isthmus.registry.workloads import WorkloadsAdapter


def to_status(registry: Registry, store: Store) -> OriginStatus:
    """A status that knows who and where the registry is."""
    return OriginStatus(
        Origin(registry.name, str(registry.__struct_config__.tag)),
        store.where if isinstance(registry, WorkloadsRegistry) else _address(registry),
        max_connections=getattr(registry, "max_connections", None),
        max_reads_per_minute=getattr(registry, "max_reads_per_minute", None),
    )


def to_adapter(registry: Registry, status: OriginStatus, store: Store) -> Adapter:
    """The adapter of a registry, which counts its reads in `status`; `store` is the bridge's own."""
    match registry:
        case ConsulRegistry():
            return ConsulAdapter(status.origin, registry, status)
        case EurekaRegistry():
            return EurekaAdapter(status.origin, registry, status)
        case EtcdRegistry():
            return EtcdAdapter(status.origin, registry, status)
        case NomadRegistry():
            return NomadAdapter(status.origin, registry, status)
        case FileRegistry():
            return FileAdapter(status.origin, registry, status)
        case WorkloadsRegistry():
            return WorkloadsAdapter(status.origin, store, status)


def _address(registry: NetworkRegistry | FileRegistry) -> str:
    match registry:
        case ConsulRegistry() | NomadRegistry():
            return registry.address
        case EurekaRegistry():
            return ", ".join(registry.addresses)
        case EtcdRegistry():
            return ", ".join(registry.endpoints)
        case FileRegistry():
            return ", ".join(registry.patterns)
