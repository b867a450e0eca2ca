"""What several files say together, and what stays of a file that cannot be read at the moment."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.document import Document, Entry
from isthmus.registry.model import Instance, Quarantined, Service, ServiceKey


def carry(before: Document | None, now: Document) -> Document:
    """What holds after a file changed: what it says now, and what it said before in the place of what is wrong now.

    A file that is wrong as a whole goes on as it was. A wrong service goes on as it was; where the text does not tell which
    service is wrong, so does every service that has gone from the file.
    """
    if before is None or not now.problems:
        return now
    if now.broken:
        return Document(before.entries, now.problems)
    wrong = {p.key for p in now.problems}
    present = {e.service.key for e in now.entries}
    old = [e for e in before.entries if e.service.key in wrong or (None in wrong and e.service.key not in present)]
    kept = {e.service.key for e in old}
    return Document((*(e for e in now.entries if e.service.key not in kept), *old), now.problems)


class United(msgspec.Struct, frozen=True):
    """Everything that the files say."""

    services: Mapping[ServiceKey, Service]
    quarantined: tuple[Quarantined, ...]


def unite(documents: Mapping[str, Document], origin: str) -> United:
    """Services by key, over all files in the order of their names.

    The instances and host names of a service that stands several times are united. Where two disagree about its ports, or
    claim the same instance id, the first is kept and the later is quarantined.
    """
    services: dict[ServiceKey, Service] = {}
    first_at: dict[ServiceKey, str] = {}
    several: dict[ServiceKey, dict[str, Instance]] = {}
    quarantined: list[Quarantined] = []
    for name in sorted(documents):
        quarantined += [Quarantined(origin, f"{name}:{p.line}", p.reason) for p in documents[name].problems]
        for entry in documents[name].entries:
            key, where = entry.service.key, f"{name}:{entry.line}"
            kept = services.get(key)
            if kept is None:
                services[key], first_at[key] = entry.service, where
                continue
            reason = _disagreement(kept, entry, first_at[key])
            if reason:
                quarantined.append(Quarantined(origin, where, reason))
                continue
            instances = several.setdefault(key, {i.id: i for i in kept.instances})
            for instance in entry.service.instances:
                if instance.id in instances:
                    reason = f"service {key}: the instance id {instance.id} is taken already"
                    quarantined.append(Quarantined(origin, where, reason))
                else:
                    instances[instance.id] = instance
            services[key] = msgspec.structs.replace(kept, hostnames=kept.hostnames | entry.service.hostnames)
    for key, instances in several.items():
        united = tuple(instances[i] for i in sorted(instances))
        services[key] = msgspec.structs.replace(services[key], instances=united)
    return United(services, tuple(sorted(quarantined)))


def _disagreement(kept: Service, entry: Entry, first_at: str) -> str:
    if entry.service.ports != kept.ports:
        ports = ", ".join(f"{p.name} {p.number} {p.protocol.value}" for p in kept.ports)
        return f"service {kept.key}: its ports differ from {first_at}, which says {ports}"
    if entry.service.external != kept.external:
        return f"service {kept.key}: external differs from {first_at}, which says {str(kept.external).lower()}"
    return ""
