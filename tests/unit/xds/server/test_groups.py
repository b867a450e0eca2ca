"""Envoys of several groups on one server: what is the same for them is made once."""

from __future__ import annotations

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from isthmus.registry.model import Catalog, Instance, Port, Protocol, Service, ServiceKey
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.services import DELTA_PATH
from isthmus.xds.translate import Mesh, translate
from isthmus.xds.translate.views import Views
from tests.unit.xds.server.wire import Served

CLUSTER = "outbound|80||web.default.mesh"


def mesh(instances: int) -> Mesh:
    key = ServiceKey("default", "web")
    places = tuple(Instance(f"i{n}", "o", f"10.0.0.{n}", {"http": 80}) for n in range(instances))
    return Mesh(Catalog({key: Service(key, (Port("http", 80, Protocol.HTTP),), places)}))


def follow(served: Served, outbound: str, type_url: TypeUrl, *names: str) -> int:
    stream = served.wire.open(DELTA_PATH)
    request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
    request.node.id = outbound or "plain"
    request.node.metadata["OUTBOUND"] = outbound
    served.wire.say(stream, request)
    return stream


def names(served: Served, stream: int) -> set[str]:
    return {r.name for m in served.wire.sent[stream] for r in DeltaDiscoveryResponse.FromString(m).resources}


async def test_what_is_the_same_for_all_is_encoded_once() -> None:
    """A change of instances, and all clusters at first; listeners differ, and are told apart."""
    served = Served()
    translation = translate(mesh(1))
    views = Views(translation)
    served.server.update(views)
    modes = ("", "ADDRESSES", "CAPTURED", "EXPLICIT")
    endpoints = {mode: follow(served, mode, TypeUrl.ENDPOINT, CLUSTER) for mode in modes}
    clusters = {mode: follow(served, mode, TypeUrl.CLUSTER, "*") for mode in modes}
    listeners = {mode: follow(served, mode, TypeUrl.LISTENER, "*") for mode in modes}
    for group in served.server.groups:
        views.make(group)
    served.server.update(views)
    for streams in (endpoints, clusters):
        assert len({id(served.wire.sent[stream][-1]) for stream in streams.values()}) == 1
    assert {mode: names(served, stream) for mode, stream in listeners.items()} == {
        "": {"outbound_http"},
        "EXPLICIT": {"outbound_http"},
        "ADDRESSES": {"outbound_http", "127.64.0.1_80"},
        "CAPTURED": {"0.0.0.0_80", "127.64.0.1_80"},
    }
    for stream in endpoints.values():
        served.ack(stream)

    views = views.next(translate(mesh(2), translation))
    for group in served.server.groups:
        views.make(group)
    served.server.update(views)

    assert {len(served.wire.sent[stream]) for stream in endpoints.values()} == {2}
    assert len({id(served.wire.sent[stream][-1]) for stream in endpoints.values()}) == 1
