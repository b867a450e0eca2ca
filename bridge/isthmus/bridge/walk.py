"""`isthmus explain endpoint`: one address, followed from its registry to the proxies that acknowledged it.

Each stage says what became of the record there. The first one that did not let it pass as it was is the answer.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from isthmus.bridge.answers import Stage, Verdict, Walk
from isthmus.registry.model import Health, Instance, Quarantined, Service, ServiceKey
from isthmus.registry.source import Source
from isthmus.xds.names import ClusterName, hostname
from isthmus.xds.resource import TypeUrl

if TYPE_CHECKING:
    from isthmus.bridge.bridge import Bridge

_SERVING = frozenset({Health.HEALTHY, Health.DEGRADED, Health.UNKNOWN})
_OF_ORIGINS = ("registry", "filter", "health", "guard", "drain", "doubt")
_NOBODY = "-"
_PLACES = 5
"""Places of a service that are named when the one that is asked about is not among them."""


class Endpoint(NamedTuple):
    """An address (canonical, where it is an IP address) and a port; `unix:///path` and 0."""

    address: str
    port: int

    def __str__(self) -> str:
        if self.address.startswith("unix:"):
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def is_at(self, address: str, port: int) -> bool:
        """Whether that is this place."""
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            address = address.removesuffix(".")
        return self.address.lower().removesuffix(".") == address.lower() and port == self.port

    def is_served_by(self, instance: Instance) -> bool:
        """Whether that instance listens there."""
        if self.address.startswith("unix:"):
            return instance.address == self.address
        return any(self.is_at(instance.address, port) for port in instance.ports.values())

    def is_address(self, address: Address) -> bool:
        """Whether Envoy's address is this one."""
        if address.HasField("pipe"):
            return self.address == f"unix://{address.pipe.path}"
        return self.is_at(address.socket_address.address, address.socket_address.port_value)


def walk(bridge: Bridge, key: ServiceKey, endpoint: Endpoint) -> Walk:
    """Follow an endpoint of a service."""
    stages = [s for name, source in bridge.hub.sources.items() for s in _in_origin(name, source, key, endpoint)]
    stages += _removed(bridge, key, endpoint)
    merged = None
    if any(s.stage == "registry" and s.verdict is Verdict.PASSED for s in stages):
        merged = _find(bridge.published.catalog.services.get(key), endpoint)
        if merged is not None or not any(s.stage == "doubt" for s in stages):
            stages.append(_in_catalog(bridge, key, endpoint, merged))
        if merged is not None:
            stages += _in_resources(bridge, key, merged, endpoint)
    serving, answer = _conclude(stages, merged)
    return Walk(str(key), str(endpoint), serving, answer, tuple(stages))


def _conclude(stages: Sequence[Stage], merged: Instance | None) -> tuple[bool, str]:
    """Whether it gets requests, and why not or in spite of what."""
    if merged is None:
        lost = next((s for s in stages if s.verdict is Verdict.DROPPED), None)
        if lost is not None:
            return False, f"it gets no requests: {_named(lost)}"
        absent = "; ".join(f"{s.where} {s.text}" for s in stages if s.verdict is Verdict.ABSENT)
        return False, f"it gets no requests: no registry lists it: {absent}"
    # What another registry says of the same place does not count: merging keeps one record.
    path = [s for s in stages if s.stage not in _OF_ORIGINS or s.where == merged.origin]
    first = next((s for s in path if s.verdict is not Verdict.PASSED), None)
    proxies = {s.where for s in path if s.stage == "proxy" and s.where != _NOBODY}
    behind = {s.where for s in path if s.stage == "proxy" and s.verdict is Verdict.DROPPED}
    following = proxies - behind
    if merged.health not in _SERVING or merged.weight <= 0 or not proxies:
        return False, f"it gets no requests: {_named(first) if first else 'the bridge is about to send it'}"
    late = next((s for s in path if s.verdict is Verdict.DROPPED), None)
    if late is not None:
        # What a proxy acknowledged earlier may have had it: it is not said that there are no requests.
        count = f"only {len(following)} of {len(proxies)} proxies" if following else "no proxy"
        return False, f"{count} has acknowledged it: {_named(late)}"
    who = f"all {len(proxies)} proxies have" if len(proxies) > 1 else f"{min(proxies)} has"
    though = f"; {_named(first)}" if first else ""
    return True, f"it gets requests: {who} acknowledged it{though}"


def _named(stage: Stage) -> str:
    return f"{stage.stage} ({stage.where}): {stage.text}"


def _in_origin(name: str, source: Source, key: ServiceKey, endpoint: Endpoint) -> Iterator[Stage]:
    """Through one origin: what the registry lists, what could not be used of it, its health, the guard, the drain."""
    status = source.status
    if source.listed is None:
        reason = status.error or "the first listing is under way"
        yield Stage("registry", name, Verdict.ABSENT, f"has not been read yet: {reason}")
        return
    age = f"; stale for {time.time() - status.stale_since:.0f} s: {status.error}" if status.stale_since else ""
    instance = _find(source.listed.services.get(key), endpoint)
    if instance is not None:
        at = f", cursor {source.listed.cursor}" if source.listed.cursor else ""
        applied = instance.provenance.get("conventions", "")
        by = f"; read by the conventions {applied}" if applied else ""
        yield Stage("registry", name, Verdict.PASSED, f"lists it as {instance.id}{at}{by}{age}")
        yield Stage("health", name, *_health(instance))
        return
    held = next((h for h in source.holds if h.key == key and endpoint.is_served_by(h.instance)), None)
    if held is not None:
        ends = "while that lasts" if held.until is None else f"for another {_seconds(held.until)} s"
        yield Stage("registry", name, Verdict.PASSED, f"listed it as {held.instance.id}, and no longer does{age}")
        yield Stage("health", name, *_health(held.instance))
        yield Stage("guard", name, Verdict.CHANGED, f"it is held {ends}: {held.reason}")
        return
    leaving = next((x for x in source.leaving if x.key == key and endpoint.is_served_by(x.instance)), None)
    if leaving is not None:
        text = f"it finishes what it has, for another {_seconds(leaving.until)} s, and gets nothing new"
        yield Stage("registry", name, Verdict.PASSED, f"listed it as {leaving.instance.id} until a moment ago{age}")
        yield Stage("drain", name, Verdict.CHANGED, text)
        return
    refused = _refused(status.quarantined, key, endpoint)
    if refused is not None:
        yield Stage("filter", name, Verdict.DROPPED, f"{refused.where} cannot be used: {refused.reason}")
        return
    yield Stage("registry", name, Verdict.ABSENT, _absence(source.listed.services, key) + age)


def _seconds(until: float) -> str:
    return f"{max(0.0, until - time.monotonic()):.0f}"


def _refused(quarantined: Sequence[Quarantined], key: ServiceKey, endpoint: Endpoint) -> Quarantined | None:
    """What was left out and is probably meant: it names the address or the service."""
    for word in (endpoint.address, key.name):
        whole = re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w-])")
        for q in quarantined:
            if whole.search(q.where) or whole.search(q.reason):
                return q
    return None


def _absence(services: Mapping[ServiceKey, Service], key: ServiceKey) -> str:
    service = services.get(key)
    if service is None:
        others = sorted(str(k) for k in services if k.name.lower() == key.name.lower())
        return f"does not list the service{f', but {others[0]}' if others else ''}"
    places = sorted({str(Endpoint(i.address, p)) for i in service.instances for p in i.ports.values() or (0,)})
    more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
    return f"lists the service at {', '.join(places[:_PLACES]) or 'no address at all'}{more}, not there"


def _health(instance: Instance) -> tuple[Verdict, str]:
    said = instance.provenance
    reasons = (
        ("failing checks: {}", said.get("failing_checks")),
        ("{}", said.get("health")),
        ("status {}", said.get("overridden_status") or (said.get("status", "") != "UP" and said.get("status"))),
        ("renewal {}", said.get("renewal")),
        ("gets {} % of its weight", instance.taper < 100 and instance.taper),
    )
    because = "; ".join(text.format(reason) for text, reason in reasons if reason)
    because = f" ({because})" if because else ""
    if instance.health is Health.DRAINING:
        return Verdict.CHANGED, f"draining: it finishes what it has and gets nothing new{because}"
    if instance.health is Health.UNHEALTHY:
        return Verdict.CHANGED, f"unhealthy{because}"
    if instance.weight <= 0:
        return Verdict.CHANGED, f"{instance.health.value}, but its registry gives it the weight 0{because}"
    return Verdict.PASSED, f"{instance.health.value}, weight {instance.weight}{because}"


def _removed(bridge: Bridge, key: ServiceKey, endpoint: Endpoint) -> Iterator[Stage]:
    """What the operator has taken out of the catalog for being doubtful."""
    for removed in bridge.published.catalog.removed.get(key, ()):
        if endpoint.is_served_by(removed.instance):
            text = f"taken out, for doubt.remove has {removed.code}: {removed.instance.id} is {removed.text}"
            yield Stage("doubt", removed.instance.origin, Verdict.DROPPED, text)


def _in_catalog(bridge: Bridge, key: ServiceKey, endpoint: Endpoint, merged: Instance | None) -> Stage:
    shown = {
        name: instance
        for name, source in bridge.hub.sources.items()
        if source.shown and (instance := _find(source.shown.services.get(key), endpoint))
    }
    if merged is None:
        why = [c for c in bridge.published.conflicts if c.subject == f"ports of {key}"]
        text = (
            f"its port is none of the service's: {why[0].dropped} loses to {why[0].kept}"
            if why
            else "it is not in it yet"
        )
        return Stage("merge", "catalog", Verdict.DROPPED, text)
    others = [name for name in shown if name != merged.origin]
    also = f"; {', '.join(others)} {'lists' if len(others) == 1 else 'list'} the same place" if others else ""
    text = f"is instance {merged.id} of {merged.origin}, weight {merged.weight}{also}"
    listed = shown.get(merged.origin)
    if merged.weight <= 0 and listed is not None and listed.weight > 0:
        return Stage("merge", "catalog", Verdict.CHANGED, f"{text}: merge.weights gives {merged.origin} no requests")
    return Stage("merge", "catalog", Verdict.PASSED, text)


def _in_resources(bridge: Bridge, key: ServiceKey, merged: Instance, endpoint: Endpoint) -> Iterator[Stage]:
    """Through every cluster that it belongs to, to every proxy."""
    snapshot = bridge.server.snapshot
    served = {
        port.number
        for port in bridge.published.catalog.services[key].ports
        if port.name in merged.ports and (not endpoint.port or merged.ports[port.name] == endpoint.port)
    }
    own = hostname(key, bridge.config.mesh.domain)
    clusters = sorted(name for name in snapshot.of_type(TypeUrl.CLUSTER) if _belongs(name, own, served))
    if not clusters:
        lost = [c for c in bridge.published.conflicts if c.dropped == str(key)]
        text = f"its service has no cluster: {lost[0].subject} is {lost[0].kept}'s" if lost else "it has no cluster"
        yield Stage("translate", str(key), Verdict.DROPPED, text)
    assignments = snapshot.of_type(TypeUrl.ENDPOINT)
    for cluster in clusters:
        if cluster not in assignments:
            yield Stage("translate", cluster, Verdict.PASSED, "Envoy resolves the host names of its instances itself")
            yield from _at_proxies(bridge, TypeUrl.CLUSTER, cluster)
            continue
        found = _endpoint(ClusterLoadAssignment.FromString(assignments[cluster].body), endpoint)
        if found is None:
            why = [
                c for c in bridge.published.conflicts if endpoint.address in c.subject or endpoint.address in c.dropped
            ]
            text = f"{why[0].dropped} loses to {why[0].kept} ({why[0].subject})" if why else "it is not in it"
            yield Stage("translate", cluster, Verdict.DROPPED, text)
            continue
        text = f"is in it, {HealthStatus.Name(found.health_status)}, weight {found.load_balancing_weight.value}"
        yield Stage("translate", cluster, Verdict.PASSED, text)
        yield from _at_proxies(bridge, TypeUrl.ENDPOINT, cluster)


def _endpoint(assignment: ClusterLoadAssignment, endpoint: Endpoint) -> LbEndpoint | None:
    there = (e for locality in assignment.endpoints for e in locality.lb_endpoints)
    return next((e for e in there if endpoint.is_address(e.endpoint.address)), None)


def _at_proxies(bridge: Bridge, type_url: TypeUrl, name: str) -> Iterator[Stage]:
    followers = bridge.server.followers(type_url, name)
    if not followers:
        yield Stage("proxy", _NOBODY, Verdict.DROPPED, "no proxy is connected")
    for node, has_it, text in followers:
        yield Stage("proxy", node, Verdict.PASSED if has_it else Verdict.DROPPED, text)


def _belongs(cluster: str, host: str, ports: set[int]) -> bool:
    try:
        name = ClusterName.parse(cluster)
    except ValueError:
        return False
    return name.hostname == host and name.port in ports


def _find(service: Service | None, endpoint: Endpoint) -> Instance | None:
    return next((i for i in service.instances if endpoint.is_served_by(i)), None) if service else None
