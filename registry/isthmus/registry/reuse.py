"""What is equal is the same object: kept once, and seen by identity to be unchanged. Pure.

Adapters read a service as a whole, and make a thousand instances anew because one differs. What comes in is compared once, here
(`reuse`), so that all later stages need not. And thousands of instances have labels, ports, a locality in common: adapters pass
these through `once` and `once_mapping`, since they would be half of all memory.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from functools import lru_cache
from operator import is_
from typing import TypeVar

import msgspec

from isthmus.registry.model import Service, ServiceKey, Snapshot

REMEMBERED = 1024
"""Different values that are known again: those that were met last. What none else has is soon forgotten."""

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def once(value: H) -> H:
    """An equal value that was given before, if it is remembered: else this one."""
    return _once(value)  # type: ignore[return-value]  # lru_cache forgets the type, and equal values here are of one type


def once_mapping(said: Mapping[str, T]) -> Mapping[str, T]:
    """The same for a mapping with hashable values. Nobody may alter what is returned."""
    return _once_mapping(tuple(said.items()))


@lru_cache(REMEMBERED)
def _once(value: Hashable) -> Hashable:
    return value


@lru_cache(REMEMBERED)
def _once_mapping(items: tuple[tuple[str, T], ...]) -> Mapping[str, T]:
    return {sys.intern(key): value for key, value in items}


def reuse(before: Service | None, now: Service) -> Service:
    """The service with those objects of `before` that are equal: `before` itself, if all of it is."""
    if before is None or before is now:
        return now
    known = {i.id: i for i in before.instances}
    instances = [was if (was := known.get(i.id)) == i and was is not None else i for i in now.instances]
    if not all(map(is_, instances, now.instances)):
        now = msgspec.structs.replace(now, instances=tuple(instances))
    return before if before == now else now


def reuse_services(before: Snapshot, now: Snapshot) -> Snapshot:
    """The same for the services of a snapshot that may differ from those before it."""
    services: dict[ServiceKey, Service] = {}
    for key in now.services if now.changed is None else now.changed & now.services.keys():
        service = now.services[key]
        reused = reuse(before.services.get(key), service)
        if reused is not service:
            services[key] = reused
    return msgspec.structs.replace(now, services={**now.services, **services}) if services else now
