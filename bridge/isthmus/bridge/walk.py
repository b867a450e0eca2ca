"""`isthmus explain endpoint`: one address, followed from its registry to the proxies that acknowledged it.

Each stage says what became of the record there. The first stage that is not "passed" is the answer.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from isthmus.registry.model import Health, Instance, Service, ServiceKey
from isthmus.registry.source import Source
from isthmus.xds.names import ClusterName
from isthmus.xds.resource import TypeUrl

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge


class Verdict(enum.Enum):
    """What became of the record at one stage."""

    PASSED = "passed"
    CHANGED = "changed"
    """It goes on, but gets no requests, or others than its registry meant."""
    DROPPED = "dropped"


class Stage(msgspec.Struct, frozen=True):
    """One stage, in one sentence. `where` is an origin, a resource or a proxy."""

    stage: str
    where: str
    verdict: Verdict
    text: str


class Walk(msgspec.Struct, frozen=True):
    """The whole way of one endpoint. `answer` names the first stage that dropped or changed it."""

    service: str
    address: str
    answer: str
    stages: tuple[Stage, ...]


def walk(bridge: Bridge, key: ServiceKey, address: str, port: int) -> Walk:
    """Follow the endpoint `address:port` of a service."""
    stages: list[Stage] = []
    for name, source in bridge.hub.sources.items():
        stages += _in_origin(name, source, key, address, port)
    if all(s.verdict is Verdict.DROPPED for s in stages):
        return _answered(key, address, port, stages)
    merged = _find(bridge.catalog.services.get(key), address, port)
    if merged is None:
        stages.append(Stage("merge", "catalog", Verdict.DROPPED, "is not in the merged catalog"))
        return _answered(key, address, port, stages)
    stages.append(_in_catalog(bridge, key, merged))
    stages += _in_resources(bridge, key, merged, address, port)
    return _answered(key, address, port, stages)


def _answered(key: ServiceKey, address: str, port: int, stages: list[Stage]) -> Walk:
    bad = [s for s in stages if s.verdict is not Verdict.PASSED]
    if not stages:
        answer = "there are no registries"
    elif any(s.stage == "registry" and s.verdict is Verdict.PASSED for s in stages):
        # An origin that never had it explains nothing when another one has.
        bad = [s for s in bad if s.stage != "registry"]
        first = bad[0] if bad else None
        answer = (
            f"{first.stage} ({first.where}): {first.text}" if first else "it gets requests, and every proxy knows it"
        )
    else:
        answer = f"registry: {'; '.join(f'{s.where} {s.text}' for s in bad)}"
    return Walk(str(key), f"{address}:{port}", answer, tuple(stages))


def _in_origin(name: str, source: Source, key: ServiceKey, address: str, port: int) -> Iterator[Stage]:
    """Through one origin: what the registry lists, its health, the guard, the drain."""
    status = source.status
    if source.listed is None:
        yield Stage(
            "registry",
            name,
            Verdict.DROPPED,
            f"has not been read yet: {status.error or 'the first listing is under way'}",
        )
        return
    age = (
        f", stale for {time.time() - status.stale_since:.0f} s: {status.error}"
        if status.stale_since is not None
        else ""
    )
    instance = _find(source.listed.services.get(key), address, port)
    if instance is not None:
        yield Stage("registry", name, Verdict.PASSED, f"lists it as {instance.id} (cursor {source.listed.cursor}{age})")
        yield _health(name, instance)
        return
    held = next((h for h in source.holds if h.key == key and _serves(h.instance, address, port)), None)
    if held is not None:
        yield Stage("registry", name, Verdict.PASSED, f"listed it as {held.instance.id}, and does no more")
        ends = (
            "while that lasts" if held.until is None else f"for another {max(0, held.until - time.monotonic()):.0f} s"
        )
        yield Stage("guard", name, Verdict.CHANGED, f"holds it {ends}: {held.reason}")
        return
    leaving = next((x for x in source.leaving if x.key == key and _serves(x.instance, address, port)), None)
    if leaving is not None:
        yield Stage("registry", name, Verdict.PASSED, f"listed it as {leaving.instance.id} until a moment ago")
        rest = max(0, leaving.until - time.monotonic())
        text = f"lets it finish what it has, for another {rest:.0f} s; nothing new is sent"
        yield Stage("drain", name, Verdict.CHANGED, text)
        return
    yield Stage("registry", name, Verdict.DROPPED, _absence(source, key) + age)


def _absence(source: Source, key: ServiceKey) -> str:
    refused = [q for q in source.status.quarantined if key.name in q.where or key.name in q.reason]
    if refused:
        return f"could not use {refused[0].where}: {refused[0].reason}"
    listed = source.listed
    service = listed.services.get(key) if listed else None
    if service is None:
        others = sorted(str(k) for k in listed.services if k.name == key.name) if listed else []
        return f"does not list the service{f', but {others[0]}' if others else ''}"
    places = sorted(f"{i.address}:{p}" for i in service.instances for p in i.ports.values())
    shown = ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
    return f"lists the service at {shown or 'no address at all'}, not there"


def _health(name: str, instance: Instance) -> Stage:
    checks = instance.provenance.get("failing_checks") or instance.provenance.get("checks", "")
    because = f" ({checks})" if checks else ""
    match instance.health:
        case Health.HEALTHY | Health.UNKNOWN | Health.DEGRADED if instance.weight > 0:
            return Stage("health", name, Verdict.PASSED, f"{instance.health.value}, weight {instance.weight}{because}")
        case Health.HEALTHY | Health.UNKNOWN | Health.DEGRADED:
            return Stage(
                "health",
                name,
                Verdict.CHANGED,
                f"{instance.health.value}, but of weight 0: it gets no requests{because}",
            )
        case _:
            return Stage("health", name, Verdict.CHANGED, f"{instance.health.value}: it gets no requests{because}")


def _in_catalog(bridge: Bridge, key: ServiceKey, merged: Instance) -> Stage:
    claims = [
        name
        for name, source in bridge.hub.sources.items()
        if source.shown and any(_find(source.shown.services.get(key), merged.address, p) for p in merged.ports.values())
    ]
    if claims and claims[0] != merged.origin and merged.origin in claims:
        claims = [merged.origin, *(c for c in claims if c != merged.origin)]
    others = f"; {', '.join(claims[1:])} lists it too" if claims[1:] else ""
    return Stage(
        "merge",
        "catalog",
        Verdict.PASSED,
        f"is instance {merged.id} of {merged.origin}, weight {merged.weight}{others}",
    )


def _in_resources(bridge: Bridge, key: ServiceKey, merged: Instance, address: str, port: int) -> Iterator[Stage]:
    service = bridge.catalog.services[key]
    names = {p.number for p in service.ports if merged.ports.get(p.name) == port}
    resources = bridge.server.snapshot.of_type(TypeUrl.ENDPOINT)
    clusters = [name for name in resources if _belongs(name, key, names, bridge.config.mesh.domain)]
    for name in sorted(clusters):
        assignment = ClusterLoadAssignment.FromString(resources[name].body)
        found = [
            e
            for locality in assignment.endpoints
            for e in locality.lb_endpoints
            if _at(
                e.endpoint.address.socket_address.address, e.endpoint.address.socket_address.port_value, address, port
            )
            or e.endpoint.address.pipe.path == address.removeprefix("unix://")
        ]
        if not found:
            why = [
                c for c in bridge.conflicts if str(key) in c.subject or str(key) in c.dropped or address in c.dropped
            ]
            text = (
                f"conflict about {why[0].subject}: {why[0].dropped} loses to {why[0].kept}" if why else "is not in it"
            )
            yield Stage("translate", name, Verdict.DROPPED, text)
            continue
        health = HealthStatus.Name(found[0].health_status)
        yield Stage(
            "translate", name, Verdict.PASSED, f"is in it, {health}, weight {found[0].load_balancing_weight.value or 1}"
        )
        yield from _at_proxies(bridge, name)
    if not clusters:
        static = bridge.server.snapshot.of_type(TypeUrl.CLUSTER)
        inline = [name for name in static if _belongs(name, key, names, bridge.config.mesh.domain)]
        if inline:
            yield Stage(
                "translate",
                inline[0],
                Verdict.PASSED,
                "is resolved by Envoy itself: an instance has a host name as address",
            )
        else:
            yield Stage("translate", str(key), Verdict.DROPPED, "has no cluster; see isthmus doctor for conflicts")


def _at_proxies(bridge: Bridge, cluster: str) -> Iterator[Stage]:
    followers = bridge.server.followers(TypeUrl.ENDPOINT, cluster)
    if not followers:
        yield Stage("proxy", "-", Verdict.DROPPED, "no proxy is connected")
    for node, has_it, text in followers:
        yield Stage("proxy", node, Verdict.PASSED if has_it else Verdict.DROPPED, text)


def _belongs(cluster: str, key: ServiceKey, ports: Iterable[int], domain: str) -> bool:
    try:
        name = ClusterName.parse(cluster)
    except ValueError:
        return False
    return name.hostname == f"{key.name}.{key.namespace}.{domain}".lower() and name.port in ports


def _find(service: Service | None, address: str, port: int) -> Instance | None:
    if service is None:
        return None
    return next((i for i in service.instances if _serves(i, address, port)), None)


def _serves(instance: Instance, address: str, port: int) -> bool:
    return instance.address == address and (port in instance.ports.values() or address.startswith("unix:"))


def _at(address: str, number: int, wanted_address: str, wanted_port: int) -> bool:
    return (address, number) == (wanted_address, wanted_port)
