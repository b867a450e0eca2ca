"""Laws of endpoints: what is joined by hand is what protobuf would have written."""

from __future__ import annotations

import itertools

import msgspec
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Locality as LocalityMessage
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint as EndpointMessage
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.wrappers_pb2 import UInt32Value
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.xds.translate.endpoints import Endpoint, assign, place, to_assignment, usable

PORT = Port("http", 80, Protocol.HTTP)
CLUSTER = "outbound|80||web.default.mesh"

texts = st.one_of(st.sampled_from(["", "v1", "ü", "x" * 127, "x" * 128, "y" * 20_000]), st.text(max_size=8))
instances = st.builds(
    Instance,
    id=st.one_of(st.sampled_from(["i1", "i2", "i3", "i" * 130]), st.text(min_size=1, max_size=4)),
    origin=st.sampled_from(["consul", "eureka"]),
    address=st.one_of(
        st.ip_addresses().map(str), st.sampled_from(["10.0.0.1", "0:0::1", "unix:///run/x", "db.example"])
    ),
    ports=st.dictionaries(st.just("http"), st.sampled_from([1, 127, 128, 8080, 65535])),
    health=st.sampled_from(Health),
    weight=st.sampled_from([0, 1, 127, 128, 2**31, 2**32, 2**40]),
    locality=st.builds(Locality, st.sampled_from(["", "eu"]), st.sampled_from(["", "eu-1"]), texts),
    labels=st.dictionaries(texts, texts, max_size=3),
)
services = st.lists(instances, max_size=5, unique_by=lambda i: i.id).map(
    lambda found: Service(ServiceKey("default", "web"), (PORT,), tuple(sorted(found, key=lambda i: i.id)))
)

HEALTH = {
    Health.HEALTHY: HealthStatus.HEALTHY,
    Health.DEGRADED: HealthStatus.DEGRADED,
    Health.DRAINING: HealthStatus.DRAINING,
    Health.UNHEALTHY: HealthStatus.UNHEALTHY,
    Health.UNKNOWN: HealthStatus.UNKNOWN,
}


def written(endpoints: list[Endpoint], priority: int = 0) -> bytes:
    """The load assignment of endpoints as protobuf itself makes it."""
    divisor = sum(max(1, e.instance.weight) for e in endpoints) // (2**32 - 1) + 1
    message = ClusterLoadAssignment(cluster_name=CLUSTER)
    ordered = sorted(endpoints, key=lambda e: (e.instance.locality, e.instance.id))
    for at, there in itertools.groupby(ordered, key=lambda e: e.instance.locality):
        members = [to_message(e, divisor) for e in there]
        message.endpoints.append(
            LocalityLbEndpoints(
                locality=LocalityMessage(region=at.region, zone=at.zone, sub_zone=at.sub_zone),
                lb_endpoints=members,
                load_balancing_weight=UInt32Value(value=sum(m.load_balancing_weight.value for m in members)),
                priority=priority,
            )
        )
    return message.SerializeToString(deterministic=True)


def to_message(endpoint: Endpoint, divisor: int) -> LbEndpoint:
    instance, target = endpoint.instance, endpoint.target
    metadata = Metadata()
    for name, value in instance.labels.items():
        metadata.filter_metadata["envoy.lb"].fields[name].string_value = value
    metadata.filter_metadata["isthmus"].fields["instance"].string_value = instance.id
    metadata.filter_metadata["isthmus"].fields["origin"].string_value = instance.origin
    address = Address(pipe=Pipe(path=target.host))
    if target.port:
        address = Address(socket_address=SocketAddress(address=target.host, port_value=target.port))
    out_of_use = instance.weight <= 0 and instance.health is not Health.DRAINING
    return LbEndpoint(
        endpoint=EndpointMessage(address=address),
        health_status=HealthStatus.UNHEALTHY if out_of_use else HEALTH[instance.health],
        load_balancing_weight=UInt32Value(value=max(1, max(1, instance.weight) // divisor)),
        metadata=metadata,
    )


@given(services)
def test_assignments_are_byte_for_byte_what_protobuf_writes(service: Service) -> None:
    made = to_assignment(CLUSTER, service, PORT)
    assert made.body == written(list(made.endpoints))


@given(services)
def test_so_are_those_with_priorities(service: Service) -> None:
    made = [usable(e) for e in to_assignment(CLUSTER, service, PORT).endpoints if e.instance.weight > 0]
    body = assign(CLUSTER, ((place(e.instance.locality, 1), [e]) for e in made))
    assert body == written(made, priority=1)
    assert all(e.instance.health is Health.HEALTHY for e in made)


@given(st.lists(services, min_size=2, max_size=4))
def test_what_was_encoded_before_changes_nothing_but_time(history: list[Service]) -> None:
    """Also where some instances of a service are the same objects as before, and others have taken their ids."""
    pool = {i.id: i for service in history for i in service.instances}
    encoded: tuple[Endpoint, ...] = ()
    for said in history:
        shared = tuple(pool[i.id] if n % 2 else i for n, i in enumerate(said.instances))
        service = msgspec.structs.replace(said, instances=shared)
        made = to_assignment(CLUSTER, service, PORT, encoded)
        anew = to_assignment(CLUSTER, service, PORT)
        assert (made.body, made.by_name, sorted(made.conflicts)) == (anew.body, anew.by_name, sorted(anew.conflicts))
        encoded = made.endpoints
