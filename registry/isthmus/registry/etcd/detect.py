"""Which of the known layouts a prefix is written in, by a sample of its keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from isthmus.registry.etcd.layouts import LAYOUTS, UnreadableError

SAMPLE = 100
"""Keys that are looked at."""

ENOUGH = 0.9
"""Share of the sample that a layout has to explain; the rest may be strays, which are quarantined one by one."""

CANDIDATES = tuple(name for name in LAYOUTS if name != "registrator")
"""A value `host:port` is taken for go-zero's; registrator's keys are read the same."""


class Detected(msgspec.Struct, frozen=True):
    """What a sample showed. `layout` is empty when it is not clear, and `reason` says why."""

    layout: str
    sampled: int
    explained: int
    reason: str = ""


def detect(keys: Sequence[tuple[str, bytes]], prefix: str) -> Detected:
    """Choose by pairs of a key's part after the prefix and its value; an empty sequence is not clear either."""
    step = max(1, len(keys) // SAMPLE)
    sample = keys[::step][:SAMPLE]
    scores = {name: sum(_explains(name, path, prefix, value) for path, value in sample) for name in CANDIDATES}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] and scores[best] >= ENOUGH * len(sample):
        return Detected(best, len(sample), scores[best])
    if not scores[best]:
        reason = f"no known layout explains any of {len(sample)} sampled keys"
    else:
        shares = ", ".join(f"{name} {score}" for name, score in scores.items() if score)
        reason = f"no layout explains enough of {len(sample)} sampled keys ({shares})"
    return Detected("", len(sample), scores[best], reason)


def _explains(name: str, path: str, prefix: str, value: bytes) -> bool:
    try:
        return bool(LAYOUTS[name](path, prefix, value))
    except UnreadableError:
        return False
