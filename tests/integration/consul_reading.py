"""A Consul adapter under way against a real Consul, and what it shows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.model import Health, Instance, Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.consul import Consul
from tests.wait import eventually

HEARTBEAT = 0.5


@contextlib.asynccontextmanager
async def reading(consul: Consul, **options: object) -> AsyncGenerator[tuple[Following, OriginStatus]]:
    """An adapter under way, after its first snapshot."""
    async with reading_at_all(consul, **options) as (seen, stats):
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen, stats


@contextlib.asynccontextmanager
async def reading_at_all(consul: Consul, **options: object) -> AsyncGenerator[tuple[Following, OriginStatus]]:
    """An adapter under way, whether or not it gets anywhere."""
    origin = Origin("dc1", "consul")
    stats = OriginStatus(origin)
    config = ConsulConfig(**{"address": consul.address, "heartbeat": HEARTBEAT, "token": consul.token} | options)  # type: ignore[arg-type]
    async with following(ConsulAdapter(origin, config, stats)) as seen:
        yield seen, stats


def instance(seen: Following, service: str, id_: str = "") -> Instance | None:
    """The instance with this service id (by default the service's name) in the latest snapshot."""
    found = seen.service(service)
    wanted = id_ or service
    return next((i for i in found.instances if i.provenance["service_id"] == wanted), None) if found else None


def health(seen: Following, service: str, id_: str = "") -> Health | None:
    found = instance(seen, service, id_)
    return found.health if found else None
