"""What gRPC clients are told of a service's port: Envoy's own cluster and endpoints wherever they can take them.

They know less than Envoy, and refuse a resource that asks for more (gRFC A27 and those after it,
https://github.com/grpc/proposal). Endpoints are IP addresses; one host name alone may stand for a whole cluster. Of health they
know "use" and "do not use", so instances that are degraded get a priority of their own, after the others. Round robin takes no
notice of an endpoint's weight, while localities are chosen by theirs, so instances of different weight in one place are sent as
several places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from msgspec.structs import replace

from isthmus.registry.model import Conflict, Health, Port, Service
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.clusters import to_cluster
from isthmus.xds.translate.endpoints import Endpoint, Place, assign, choose, place, usable

_PLAIN = frozenset({Health.HEALTHY, Health.UNKNOWN})
_USED = _PLAIN | {Health.DEGRADED}

Known = Mapping[tuple[TypeUrl, str], Resource]


def to_grpc_cluster(
    name: str, service: Service, port: Port, envoys: Known, before: Sequence[Endpoint]
) -> tuple[tuple[Resource, ...], tuple[Conflict, ...]]:
    """Make a port's cluster and its endpoints, if they come over EDS.

    What is as in `envoys`, Envoy's resources, is that. `before` are Envoy's endpoints of the port, encoded.
    """
    endpoints = envoys.get((TypeUrl.ENDPOINT, name))  # None when Envoy resolves names among the addresses
    if endpoints is not None and _are_plain(before):
        return (envoys[TypeUrl.CLUSTER, name], endpoints), ()

    chosen, _ = choose(service, port, before)
    used = [e for e in chosen if e.instance.health in _USED and e.instance.weight > 0]
    at_ip = [e for e in used if e.target.port and not e.target.is_name]
    by_name = [e for e in used if e.target.is_name]
    if by_name and not at_ip:
        one = min(by_name, key=lambda e: (e.instance.health is Health.DEGRADED, e.instance.id))
        inline = assign(name, [(place(one.instance.locality), [one])])
        message = to_cluster(name, service, port, ClusterLoadAssignment.FromString(inline))
        message.type = Cluster.LOGICAL_DNS
        cluster = Resource.of(TypeUrl.CLUSTER, name, message)
        return (cluster,), _left_out(name, f"{one.target}, for they take one host name", used, [one])

    if endpoints is None:
        cluster = Resource.of(TypeUrl.CLUSTER, name, to_cluster(name, service, port))
    else:
        cluster = envoys[TypeUrl.CLUSTER, name]
    # What they would not use is not sent, so that the weight of a place is what it has to offer.
    endpoints = Resource.of_bytes(TypeUrl.ENDPOINT, name, assign(name, _placed(at_ip)))
    return (cluster, endpoints), _left_out(name, "those with IP addresses", used, at_ip)


def _left_out(name: str, kept: str, used: Sequence[Endpoint], sent: Collection[Endpoint]) -> tuple[Conflict, ...]:
    if len(sent) == len(used):
        return ()
    subject = f"endpoints of {name} for gRPC clients"
    targets = {e.target for e in sent}
    return tuple(Conflict(subject, kept, f"{e.instance.id} at {e.target}") for e in used if e.target not in targets)


def _are_plain(endpoints: Sequence[Endpoint]) -> bool:
    """Whether Envoy's endpoints, none of which has a host name, mean the same to gRPC."""
    if not all(e.instance.health in _PLAIN and e.instance.weight > 0 and e.target.port for e in endpoints):
        return False
    weights = {(e.instance.locality, e.weight) for e in endpoints}
    return len(weights) == len({locality for locality, _ in weights})


def _placed(endpoints: Sequence[Endpoint]) -> Iterable[tuple[Place, list[Endpoint]]]:
    """The endpoints where they are put: by priority, locality and, where that differs within a locality, weight."""
    by_weight: dict[Place, dict[int, list[Endpoint]]] = {}
    # Priorities count from 0 without a gap.
    later = 1 if any(e.instance.health is not Health.DEGRADED for e in endpoints) else 0
    for e in endpoints:
        at = place(e.instance.locality, later if e.instance.health is Health.DEGRADED else 0)
        by_weight.setdefault(at, {}).setdefault(e.weight, []).append(usable(e))
    for at, weights in by_weight.items():
        for weight, there in weights.items():
            yield at if len(weights) == 1 else replace(at, sub_zone=f"{at.sub_zone}(weight {weight})"), there
