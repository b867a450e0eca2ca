"""What is equal stays the same object, so that all later stages see by identity what has changed.

Adapters read a service as a whole, and make a thousand instances anew because one differs. What comes in is compared once, here.
Pure.
"""

from __future__ import annotations

from operator import is_

import msgspec

from isthmus.registry.model import Service, ServiceKey, Snapshot


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
