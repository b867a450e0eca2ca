"""Translated resources become generations: what differs from the one before, and how far back that is known."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.xds.resource import Change, Resource, ResourceSnapshot, SetVersion, TypeUrl

LOG_LENGTH = 64
"""Generations that a stream may fall behind before it is brought up to date by comparing everything."""

Resources = Mapping[TypeUrl, Mapping[str, Resource]]

EMPTY = ResourceSnapshot(generation=0, resources={}, versions={t: SetVersion() for t in TypeUrl})


def publish(
    before: ResourceSnapshot,
    resources: Resources,
    changed: Mapping[TypeUrl, frozenset[str]] | None = None,
    changed_at: float | None = None,
) -> ResourceSnapshot:
    """The next generation, or `before` itself when nothing differs.

    `changed` hints which names may differ; None compares all. The result is the same.
    """
    names: dict[TypeUrl, frozenset[str]] = {}
    versions = dict(before.versions)
    kept: dict[TypeUrl, Mapping[str, Resource]] = {}
    for type_url in TypeUrl:
        old, new = before.of_type(type_url), resources.get(type_url, {})
        candidates = old.keys() | new.keys() if changed is None else changed.get(type_url, frozenset())
        version = versions[type_url]
        differing: set[str] = set()
        for name in candidates:
            was, now = old.get(name), new.get(name)
            was_version = was.version if was else None
            now_version = now.version if now else None
            if was_version != now_version:
                differing.add(name)
                version = version.replace(name, was_version, now_version)
        # What has not changed stays the same object: streams share what they make of it.
        kept[type_url] = new if differing else old
        if differing:
            names[type_url] = frozenset(differing)
            versions[type_url] = version
    if not names and before.generation:
        return before
    generation = before.generation + 1
    return ResourceSnapshot(
        generation=generation,
        resources=kept,
        versions=versions,
        log=(*before.log[-(LOG_LENGTH - 1) :], Change(generation, names)),
        changed_at=changed_at,
    )
