"""Weights of the instances of one service, after all that bears on them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.model import Health, Instance

_TIERS = {Health.HEALTHY: 0, Health.UNKNOWN: 0, Health.DEGRADED: 1, Health.UNHEALTHY: 2, Health.DRAINING: 2}
"""Instances of one tier get requests at the same time: degraded ones only when the healthy ones do not suffice."""
_WHOLE = 100
"""The share of an origin that is not named; percent of its weight that an instance gets which nobody doubts."""
_PRECISION = 100
"""So that a share of 1 can be split between a hundred instances."""


def is_tapered(instances: Iterable[Instance]) -> bool:
    """Whether some get less than their weight."""
    return any(i.taper != _WHOLE for i in instances)


def without_taper(by_id: dict[str, Instance]) -> dict[str, Instance]:
    """The instances with weights that say how much of it each gets; as they are, where all get all of it."""
    if not is_tapered(by_id.values()):
        return by_id
    return {name: msgspec.structs.replace(i, weight=i.weight * i.taper, taper=_WHOLE) for name, i in by_id.items()}


def shared(
    by_id: Mapping[str, Instance], listed_by: Mapping[str, str], weights: Mapping[str, int]
) -> dict[str, Instance]:
    """The instances with weights that give each origin its share, as far as whole numbers allow.

    Those that are not in `listed_by` have left their origin, which has no share on their account. A share is divided among
    instances that get requests at the same time: an unhealthy one takes nothing away from the others of its origin.
    """
    own: dict[tuple[str, int], int] = {}
    for instance_id, origin in listed_by.items():
        instance = by_id[instance_id]
        at = origin, _TIERS[instance.health]
        own[at] = own.get(at, 0) + instance.weight
    shares = {origin: weights.get(origin, _WHOLE) for origin in listed_by.values()}
    if len(set(shares.values())) == len(shares) == 1:
        return dict(by_id)  # nobody to share with
    out = dict(by_id)
    for instance_id, origin in listed_by.items():
        instance = by_id[instance_id]
        exact = instance.weight * shares[origin] * _PRECISION / max(1, own[origin, _TIERS[instance.health]])
        # Whoever has a share and a weight gets at least a little; no share means none.
        weight = max(1, round(exact)) if exact else 0
        if weight != instance.weight:
            out[instance_id] = msgspec.structs.replace(instance, weight=weight)
    return out
