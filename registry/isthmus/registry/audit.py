"""Where two states of one origin differ, in words: what a watch missed is a bug, ours or the registry's."""

from __future__ import annotations

from isthmus.registry.merge import differing
from isthmus.registry.model import Service, ServiceKey, Snapshot


def drifted(watched: Snapshot, listed: Snapshot) -> dict[ServiceKey, str]:
    """By service, what a complete listing shows differently from what watches have brought."""
    return {
        key: _difference(watched.services.get(key), listed.services.get(key))
        for key in sorted(differing(watched.services, listed.services))
    }


def _difference(watched: Service | None, listed: Service | None) -> str:
    if watched is None:
        return "the watch has missed it"
    if listed is None:
        return "the watch still has it, the registry does not list it"
    before, after = ({i.id: i for i in s.instances} for s in (watched, listed))
    parts = [
        *(f"missed {i}" for i in sorted(after.keys() - before.keys())),
        *(f"kept {i}" for i in sorted(before.keys() - after.keys())),
        *(f"has an old {i}" for i in sorted(before.keys() & after.keys()) if before[i] != after[i]),
    ]
    return "the watch " + ", ".join(parts or ["has other ports or names"])
