"""The table of conventions, and the reading of one instance by those that are configured. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from isthmus.registry.conventions.agent import agent
from isthmus.registry.conventions.fabio import fabio
from isthmus.registry.conventions.frameworks import envoy_control, registrator, spring
from isthmus.registry.conventions.said import Said, Sheet
from isthmus.registry.conventions.traefik import traefik

Convention = Literal["k=v", "k|v", "k:v", "envoy-control", "fabio", "registrator", "spring", "traefik"]

READERS: Mapping[str, Callable[[Sheet], None]] = {
    "envoy-control": envoy_control,
    "fabio": fabio,
    "registrator": registrator,
    "spring": spring,
    "traefik": traefik,
}
"""Those that know names; where two say the same thing, the one that is configured first counts."""

SEPARATORS: Mapping[str, str] = {"k=v": "=", "k|v": "|", "k:v": ":"}


def read(
    conventions: Sequence[Convention],
    tags: Iterable[str],
    meta: Mapping[str, str],
    *,
    id_: str = "",
    port: int = 0,
    always: Collection[str] = (),
) -> Said:
    """What one instance says of itself.

    Args:
        conventions: those that are configured for its registry.
        tags: as registered; their order does not count, for registries change it between reads.
        meta: its metadata, which becomes labels as it is, and wins over tags.
        id_: what its registry calls it.
        port: the port that it is registered with, 0 for none.
        always: keys of `key=value` tags that are read as such without any convention.

    """
    sheet = Sheet(id_, port, sorted(set(tags)), dict(meta))
    agent(sheet)
    applied: list[str] = []
    for name in conventions:
        if reader := READERS.get(name):
            before = sheet.noted
            reader(sheet)
            if sheet.noted != before:
                applied.append(name)
    return Said(
        labels=_labels(sheet, [SEPARATORS[name] for name in conventions if name in SEPARATORS], always),
        protocol=sheet.protocol,
        own_port=sheet.own_port,
        exposed=sheet.exposed,
        weight=sheet.weight,
        usual_weight=sheet.usual_weight,
        share=sheet.share,
        zone=sheet.zone,
        more=tuple(sheet.more),
        declared=sheet.declared,
        declared_weight=sheet.declared_weight,
        place=sheet.place,
        applied=tuple(applied),
        unusable=sheet.unusable,
        remarks=tuple(sheet.remarks),
    )


def _labels(sheet: Sheet, separators: Sequence[str], always: Collection[str]) -> Mapping[str, str]:
    """Pairs of tags, then metadata, which wins; the other tags as one label `tags`, sorted."""
    labels: dict[str, str] = {}
    plain = set(sheet.plain)
    for tag in sheet.tags:
        found = [at for separator in separators if (at := tag.find(separator)) > 0]
        key, equals, value = tag.partition("=")
        if found:
            labels[tag[: min(found)]] = tag[min(found) + 1 :]
        elif equals and key in always:
            labels[key] = value
        else:
            plain.add(tag)
    if plain:
        labels["tags"] = ",".join(sorted(plain))
    return dict(sorted((labels | sheet.labels | sheet.meta).items()))
