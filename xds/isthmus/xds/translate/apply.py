"""Resources by type and name, brought from one state to the next without looking at what stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isthmus.xds.resource import Resource, TypeUrl

ByType = Mapping[TypeUrl, Mapping[str, Resource]]
NOTHING: ByType = {type_url: {} for type_url in TypeUrl}


def apply(
    old: ByType, gone: Iterable[Resource], come: Iterable[Resource]
) -> tuple[ByType, Mapping[TypeUrl, frozenset[str]]]:
    """The state without what is gone and with what has come, and the names that differ. A type that does not is shared."""
    touched: dict[TypeUrl, dict[str, Resource | None]] = {type_url: {} for type_url in TypeUrl}
    for resource in gone:
        touched[resource.type_url][resource.name] = None
    for resource in come:
        touched[resource.type_url][resource.name] = resource
    differing = {type_url: _differing(old[type_url], touched[type_url]) for type_url in TypeUrl}
    return {t: _applied(old[t], touched[t], differing[t]) for t in TypeUrl}, differing


def _differing(old: Mapping[str, Resource], touched: Mapping[str, Resource | None]) -> frozenset[str]:
    return frozenset(name for name, resource in touched.items() if _version(old.get(name)) != _version(resource))


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version


def _applied(
    old: Mapping[str, Resource], touched: Mapping[str, Resource | None], differing: Iterable[str]
) -> Mapping[str, Resource]:
    if not differing:
        return old
    new = dict(old)
    for name in differing:
        resource = touched[name]
        if resource is None:
            del new[name]
        else:
            new[name] = resource
    return new
