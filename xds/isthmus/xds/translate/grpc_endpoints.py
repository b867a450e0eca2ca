"""What gRPC clients are told of a service's port: Envoy's own cluster and endpoints wherever they can take them.

They know less than Envoy, and refuse a resource that asks for more (gRFC A27 and those after it,
https://github.com/grpc/proposal). Endpoints are IP addresses; one host name alone may stand for a whole cluster. Of health they
know "use" and "do not use", so instances that are degraded get a priority of their own, after the others. Round robin takes no
notice of an endpoint's weight, while localities are chosen by theirs, so instances of different weight in one place are sent as
several places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from msgspec.structs import replace

from isthmus.registry.model import Conflict, Health, Instance, Locality, Port, Service
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.clusters import to_cluster
from isthmus.xds.translate.endpoints import UNIX, Place, Target, assign, choose, place

_USED = frozenset({Health.HEALTHY, Health.UNKNOWN, Health.DEGRADED})

Known = Mapping[tuple[TypeUrl, str], Resource]


def to_grpc_cluster(
    name: str, service: Service, port: Port, envoys: Known
) -> tuple[tuple[Resource, ...], tuple[Conflict, ...]]:
    """Make a port's cluster and its endpoints, if they come over EDS; what is as in `envoys` is that."""
    endpoints = envoys.get((TypeUrl.ENDPOINT, name))  # None when Envoy resolves names among the addresses
    if endpoints is not None and _are_plain(i for i in service.instances if port.name in i.ports):
        return (envoys[TypeUrl.CLUSTER, name], endpoints), ()

    chosen, _ = choose(service, port)
    used = {target: i for target, i in chosen.items() if i.health in _USED and i.weight > 0}
    at_ip = {target: i for target, i in used.items() if target.port and not target.is_name}
    by_name = sorted(
        (t for t in used if t.is_name), key=lambda t: (used[t].health is Health.DEGRADED, used[t].id, t.host)
    )
    if by_name and not at_ip:
        one = by_name[0]
        message = to_cluster(name, service, port, assign(name, {one: used[one]}))
        message.type = Cluster.LOGICAL_DNS
        cluster = Resource.of(TypeUrl.CLUSTER, name, message)
        return (cluster,), _left_out(name, f"{one}, for they take one host name", used, {one})

    if endpoints is None:
        cluster = Resource.of(TypeUrl.CLUSTER, name, to_cluster(name, service, port))
    else:
        cluster = envoys[TypeUrl.CLUSTER, name]
    # What they would not use is not sent, so that the weight of a place is what it has to offer.
    usable = {t: replace(i, health=Health.HEALTHY) for t, i in at_ip.items()}
    endpoints = Resource.of(TypeUrl.ENDPOINT, name, assign(name, usable, _places(at_ip)))
    return (cluster, endpoints), _left_out(name, "those with IP addresses", used, at_ip.keys())


def _left_out(name: str, kept: str, used: Mapping[Target, Instance], sent: Collection[Target]) -> tuple[Conflict, ...]:
    subject = f"endpoints of {name} for gRPC clients"
    return tuple(Conflict(subject, kept, f"{i.id} at {t}") for t, i in used.items() if t not in sent)


def _are_plain(instances: Iterable[Instance]) -> bool:
    """Whether Envoy's endpoints, none of which has a host name, mean the same to gRPC."""
    weights: dict[Locality, int] = {}
    return all(
        i.health in (Health.HEALTHY, Health.UNKNOWN)
        and i.weight == weights.setdefault(i.locality, i.weight) > 0
        and not i.address.startswith(UNIX)
        for i in instances
    )


def _places(instances: Mapping[Target, Instance]) -> Mapping[Target, Place]:
    """Where each of the instances is put: by priority, locality and, where that differs within a locality, weight."""
    # Priorities count from 0 without a gap.
    later = 1 if any(i.health is not Health.DEGRADED for i in instances.values()) else 0
    places = {t: place(i, later if i.health is Health.DEGRADED else 0) for t, i in instances.items()}
    weights: dict[Place, set[int]] = {}
    for target, instance in instances.items():
        weights.setdefault(places[target], set()).add(instance.weight)
    return {
        t: at if len(weights[at]) == 1 else replace(at, sub_zone=f"{at.sub_zone}(weight {instances[t].weight})")
        for t, at in places.items()
    }
