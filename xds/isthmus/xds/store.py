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
    after: int = 0,
) -> ResourceSnapshot:
    """The next generation, or `before` itself when nothing differs.

    `changed` hints which names may differ; None compares all. The result is the same. The generation is numbered beyond `after`.
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
            was_version, now_version = _version(old.get(name)), _version(new.get(name))
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
    generation = max(before.generation, after) + 1
    return ResourceSnapshot(
        generation=generation,
        resources=kept,
        versions=versions,
        log=(*before.log[-(LOG_LENGTH - 1) :], Change(generation, names)),
        changed_at=changed_at,
    )


def derive(
    before: ResourceSnapshot, base: ResourceSnapshot, own: Resources, changed_at: float | None = None
) -> ResourceSnapshot:
    """The next generation of a view that is as `base` but for the types in `own`, or `before` itself when nothing differs.

    `before` was derived from `base` or an earlier generation of it, with the same types for its own. Where both have changed,
    the generation has the number of the base's, and streams of both share the responses that are equal.
    """
    names: dict[TypeUrl, frozenset[str]] = {}
    versions = {**base.versions}
    resources = {**base.resources}
    for type_url, new in own.items():
        old, version = before.of_type(type_url), before.versions[type_url]
        resources[type_url] = old
        if new is not old:
            differing = frozenset(n for n in old.keys() | new.keys() if _version(old.get(n)) != _version(new.get(n)))
            if differing:
                names[type_url] = differing
                gone, come = ([r for n in differing if (r := side.get(n))] for side in (old, new))
                resources[type_url], version = new, version.replaced(gone, come)
        versions[type_url] = version
    of_base = base.changed_since(before.generation) if before.generation else None
    names |= {type_url: changed for type_url, changed in (of_base or {}).items() if type_url not in own}
    if of_base is not None and not names:
        return before
    generation = max(base.generation, before.generation + 1)
    return ResourceSnapshot(
        generation=generation,
        resources=resources,
        versions=versions,
        # Where it is not known what the base has changed, streams compare all.
        log=() if of_base is None else (*before.log[-(LOG_LENGTH - 1) :], Change(generation, names)),
        changed_at=changed_at,
        memo=base.memo if generation == base.generation else {},
    )


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version
