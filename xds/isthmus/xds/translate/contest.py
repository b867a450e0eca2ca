"""Who gets a name that several services claim.

Envoy rejects a whole route configuration for one domain that occurs twice, so each domain has one owner. A stronger kind of
name wins (see `Claim.hosts`), then the service whose key comes first. Everything here is a function of the claims alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds.translate.part import Claim

_TIERS = 4


class Settlement(msgspec.Struct, frozen=True):
    """The outcome.

    `order` has all keys that take part; `left_out` those that share their host name, and so all of their cluster names, with
    a service before them. `lost` has, for the few that lost any, the domains and listeners that belong to others.
    `names_lost` has, for the few that lost any, the host names that resolve to another service: one that speaks no HTTP, and
    so claims no domain, may have them too.
    """

    order: tuple[ServiceKey, ...] = ()
    left_out: frozenset[ServiceKey] = frozenset()
    lost: Mapping[ServiceKey, frozenset[str]] = {}
    names_lost: Mapping[ServiceKey, Mapping[str, ServiceKey]] = {}
    conflicts: tuple[Conflict, ...] = ()


def settle(claims: Mapping[ServiceKey, Claim], reserved_listener: str) -> Settlement:
    """Decide all claims. The `reserved_listener` is taken by the mesh itself."""
    conflicts: set[Conflict] = set()
    order: list[ServiceKey] = []
    left_out: set[ServiceKey] = set()
    hostnames: dict[str, ServiceKey] = {}
    for key in sorted(claims, key=lambda k: (k.namespace, k.name)):
        hostname = claims[key].hostname
        owner = hostnames.setdefault(hostname, key)
        if owner is key:
            order.append(key)
        else:
            left_out.add(key)
            conflicts.add(Conflict(f"host name {hostname}", str(owner), str(key)))

    lost: dict[ServiceKey, set[str]] = {}
    names_lost: dict[ServiceKey, dict[str, ServiceKey]] = {}
    for host, claimants in _contested(claims, order).items():
        for key in claimants[1:]:
            names_lost.setdefault(key, {})[host] = claimants[0]
        domains: dict[str, ServiceKey] = {}
        for key in claimants:
            for domain in domains_of(host, claims[key].http_ports):
                owner = domains.setdefault(domain, key)
                if owner is not key:
                    lost.setdefault(key, set()).add(domain)
                    conflicts.add(Conflict(f"host name {host}", str(owner), str(key)))

    listeners: dict[str, ServiceKey | None] = {reserved_listener: None}
    for key in order:
        for name in claims[key].listeners:
            holder = listeners.setdefault(name, key)
            if holder is not key:
                lost.setdefault(key, set()).add(name)
                conflicts.add(Conflict(f"listener {name}", str(holder or "the mesh's outbound listener"), str(key)))
    return Settlement(
        tuple(order),
        frozenset(left_out),
        {key: frozenset(names) for key, names in lost.items()},
        names_lost,
        tuple(sorted(conflicts)),
    )


def _contested(claims: Mapping[ServiceKey, Claim], order: Iterable[ServiceKey]) -> dict[str, list[ServiceKey]]:
    """Host names that several services claim, with the claimants, the strongest first."""
    first: dict[str, ServiceKey] = {}
    contested: set[str] = set()
    for key in order:
        for tier in claims[key].hosts:
            for host in tier:
                if first.setdefault(host, key) is not key:
                    contested.add(host)
    claimants: dict[str, list[ServiceKey]] = {}
    if contested:
        for tier_number in range(_TIERS):
            for key in order:
                for host in claims[key].hosts[tier_number]:
                    if host in contested:
                        claimants.setdefault(host, []).append(key)
    return claimants


def domains_of(host: str, http_ports: Iterable[int]) -> list[str]:
    """What callers may write for a host name: with each port, and alone if there is any."""
    with_port = [f"{host}:{port}" for port in http_ports]
    return [host, *with_port] if with_port else []
