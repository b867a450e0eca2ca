"""Every method of xDS v3 that is served, and what the types' own services add to the protocol."""

from __future__ import annotations

import importlib

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.descriptor import ServiceDescriptor

from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.services import METHODS, Discovery, path_of
from isthmus.xds.server.views import ENVOY_GROUP
from isthmus.xds.store import EMPTY, publish
from tests.unit.xds.server.wire import Served

FILES = (
    *("discovery.v3.ads", "cluster.v3.cds", "endpoint.v3.eds", "listener.v3.lds", "route.v3.rds", "route.v3.srds"),
    *("secret.v3.sds", "runtime.v3.rtds", "extension.v3.config_discovery", "load_stats.v3.lrs", "status.v3.csds"),
)
OTHERWISE = {"Fetch", "LocalityEndpoints"}
"""Polling over HTTP; endpoints one by one (LEDS), which nobody is offered."""
DISCOVERIES = [(path, method) for path, method in METHODS.items() if isinstance(method, Discovery)]


def test_the_methods_are_those_of_the_api() -> None:
    """Each streaming method of the services' descriptors, with the request that it takes, and no other. Rule 1."""
    found: dict[str, str] = {}
    for file in FILES:
        module = importlib.import_module(f"envoy.service.{file}_pb2")
        services: dict[str, ServiceDescriptor] = module.DESCRIPTOR.services_by_name
        for service in services.values():
            for method in service.methods:
                if method.name == "FetchClientStatus" or not any(w in method.name for w in OTHERWISE):
                    found[f"/{service.full_name}/{method.name}"] = method.input_type.name

    assert METHODS.keys() == found.keys()
    for path, discovery in DISCOVERIES:
        assert found[path] == ("DeltaDiscoveryRequest" if discovery.delta else "DiscoveryRequest")


def serve(served: Served) -> None:
    """One resource of every type, all of one name."""
    everything = {t: {"it": Resource.of_bytes(t, "it", t.short.encode())} for t in TypeUrl}
    served.server.update({ENVOY_GROUP: publish(EMPTY, everything)})


def ask(served: Served, path: str, delta: bool, type_url: str) -> int:
    stream = served.wire.open(path)
    request: DeltaDiscoveryRequest | DiscoveryRequest = (
        DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=["it"])
        if delta
        else DiscoveryRequest(type_url=type_url, resource_names=["it"])
    )
    request.node.id = "envoy"
    served.wire.say(stream, request)
    return stream


OWN = [(path, method.delta, method.type_url) for path, method in DISCOVERIES if method.type_url]


@pytest.mark.parametrize(("path", "delta", "type_url"), OWN, ids=[p.rpartition("/")[2] for p, _, _ in OWN])
@pytest.mark.parametrize("said", [True, False], ids=["type said", "type implied"])
async def test_each_type_is_served_by_its_own_service(path: str, delta: bool, type_url: TypeUrl, said: bool) -> None:
    """Rule 2: the type is implied there, and may be said."""
    served = Served()
    serve(served)

    stream = ask(served, path, delta, type_url if said else "")

    (message,) = served.wire.sent[stream]
    if delta:
        answer = DeltaDiscoveryResponse.FromString(message)
        assert [r.resource.value for r in answer.resources] == [type_url.short.encode()]
        assert answer.type_url == type_url
    else:
        whole = DiscoveryResponse.FromString(message)
        assert [r.value for r in whole.resources] == [type_url.short.encode()]
        assert whole.type_url == type_url
    (proxy,) = served.server.proxies()
    assert [(t.type, t.subscribed) for t in proxy.types] == [(type_url.short, 1)]


@pytest.mark.parametrize(("path", "delta", "type_url"), OWN, ids=[p.rpartition("/")[2] for p, _, _ in OWN])
async def test_no_service_serves_the_type_of_another(path: str, delta: bool, type_url: TypeUrl) -> None:
    served = Served()
    serve(served)
    other = TypeUrl.CLUSTER if type_url is not TypeUrl.CLUSTER else TypeUrl.ENDPOINT

    stream = ask(served, path, delta, other)

    code, text = served.wire.closed[stream]
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == f"asks for {other} from the service of {type_url}"


async def test_only_an_aggregated_stream_needs_the_type() -> None:
    """Rule 2."""
    served = Served()
    serve(served)

    for path, method in DISCOVERIES:
        if method.type_url is None:
            code, text = served.wire.closed[ask(served, path, method.delta, "")]
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "type_url" in text


async def test_streams_of_one_node_are_strangers_to_each_other() -> None:
    """Rule 4: one node may have many, one for each type or even for each name; each has its own state."""
    served = Served()
    serve(served)
    path = path_of(TypeUrl.ENDPOINT, delta=True)

    first, second = ask(served, path, True, ""), ask(served, path, True, "")
    served.wire.leave(first)

    assert served.contents(second) == {"it": "EDS"}
    assert len(served.server.proxies()) == 1
