"""A real Envoy on each type's own service, asking only for what its requests need, and reporting its load."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from isthmus.xds.resource import Resource, TypeUrl
from tests.e2e.scripted import HTTP, Scripted, at, mk_cluster, mk_listener, mk_resource, mk_routes, own_service
from tests.servers.upstream import Upstream
from tests.wait import eventually

both = pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])


@both
async def test_each_type_on_a_stream_of_its_own(
    xds: Scripted, delta: bool, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Clusters, endpoints, listeners and routes, without ADS; endpoints move. Rule 2."""
    source = own_service(delta)

    def edit(bootstrap: Bootstrap) -> None:
        resources = bootstrap.dynamic_resources
        resources.Clear()
        ParseDict({"cds_config": source, "lds_config": source}, resources)

    one, two = upstreams
    xds.publish(
        mk_cluster("reviews", type="EDS", eds_cluster_config={"eds_config": source}),
        mk_resource(TypeUrl.ENDPOINT, "reviews", at("reviews", one.port)),
        mk_listener(xds.port, {"rds": {"route_config_name": "routes", "config_source": source}}),
        mk_resource(TypeUrl.ROUTE, "routes", mk_routes("routes", to("reviews"))),
    )
    envoy = await xds.envoy(delta=delta, edit=edit)
    await eventually(lambda: answers(xds, "one"), "one answers")

    xds.publish(mk_resource(TypeUrl.ENDPOINT, "reviews", at("reviews", two.port)))
    await eventually(lambda: answers(xds, "two"), "two answers")

    streams = [(p.variant, [t.type for t in p.types]) for p in xds.server.proxies()]
    variant = "delta" if delta else "sotw"
    assert sorted(streams) == [(variant, ["CDS"]), (variant, ["EDS"]), (variant, ["LDS"]), (variant, ["RDS"])]
    assert {p.node for p in xds.server.proxies()} == {"envoy"}
    assert await envoy.rejected() == {}


async def test_clusters_on_demand(xds: Scripted, upstreams: tuple[Upstream, Upstream]) -> None:
    """A request for a cluster that Envoy does not have waits for it; one that does not exist fails at once. Rule 30."""
    one, _ = upstreams
    source = own_service(True)
    on_demand = {
        "name": "on_demand",
        "typed_config": {"@type": f"{HTTP}.on_demand.v3.OnDemand", "odcds": {"source": source, "timeout": "5s"}},
    }
    by_header = {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}}
    routes = mk_routes("inline", {"name": "all", "domains": ["*"], "routes": [by_header]})
    xds.publish(
        mk_listener(xds.port, {"route_config": routes}, on_demand),
        mk_cluster("reviews", type="STATIC", load_assignment=at("reviews", one.port)),
        mk_cluster("never asked for", type="STATIC"),
    )
    envoy = await xds.envoy(edit=without_clusters)

    assert await xds.get(**{"x-cluster": "reviews"}) == (200, "one")
    assert (await xds.get(**{"x-cluster": "unknown"}))[0] == 503
    assert "never asked for" not in (await envoy.admin("/clusters")).decode()
    (stream,) = (p for p in xds.server.proxies() if [t.type for t in p.types] == ["CDS"])
    assert stream.types[0].subscribed == 2


async def test_virtual_hosts_on_demand(xds: Scripted) -> None:
    """Nothing is sent until a request needs it, and a host that nobody has does not hold its request up.

    Envoy's first request is an empty one, after which it waits for virtual hosts; an empty response does not end that. Rule 30.
    """
    source = {**own_service(True), "initial_fetch_timeout": "0.01s"}
    on_demand = {"name": "on_demand", "typed_config": {"@type": f"{HTTP}.on_demand.v3.OnDemand"}}
    routes = mk_routes("routes", vhds={"config_source": source})
    xds.publish(
        mk_listener(xds.port, {"rds": {"route_config_name": "routes", "config_source": own_service(True)}}, on_demand),
        mk_resource(TypeUrl.ROUTE, "routes", routes),
        mk_host("reviews.test"),
        mk_host("details.test"),
    )
    envoy = await xds.envoy()

    assert await xds.get("reviews.test") == (200, "routes/reviews.test")
    dump = (await envoy.admin("/config_dump?resource=dynamic_route_configs")).decode()
    assert "reviews.test" in dump
    assert "details.test" not in dump
    assert await xds.get("details.test") == (200, "routes/details.test")
    assert (await xds.get("nobody.test"))[0] == 404


async def test_load_reports(xds: Scripted, upstreams: tuple[Upstream, Upstream]) -> None:
    """What Envoy sent to a cluster, and how it ended, by locality. Rule 51."""

    def edit(bootstrap: Bootstrap) -> None:
        config: dict[str, Any] = own_service(False)["api_config_source"]
        ParseDict(config, bootstrap.cluster_manager.load_stats_config)

    one, _ = upstreams
    here: dict[str, Any] = {"region": "eu", "zone": "eu-1"}
    assignment = at("reviews", one.port)
    assignment["endpoints"][0]["locality"] = here
    xds.publish(
        mk_cluster("reviews", type="STATIC", load_assignment=assignment),
        mk_listener(xds.port, {"route_config": mk_routes("inline", to("reviews"))}),
    )
    await xds.envoy(edit=edit)

    for _ in range(3):
        assert (await xds.get())[0] == 200

    def counted(outcome: str) -> float:
        return xds.metric("isthmus_load_requests_total", cluster="reviews", locality="eu/eu-1", outcome=outcome)

    await eventually(lambda: counted("success") == 3, "the report arrives")
    assert counted("issued") == 3
    assert counted("error") == 0


def to(cluster: str) -> dict[str, Any]:
    """A virtual host that leads to a cluster."""
    return {"name": cluster, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}


def mk_host(host: str) -> Resource:
    """A virtual host under the name by which Envoy asks for it, which it also answers with."""
    name = f"routes/{host}"
    answer = {"direct_response": {"status": 200, "body": {"inline_string": name}}}
    routes = [{"match": {"prefix": "/"}, **answer}]
    return mk_resource(TypeUrl.VIRTUAL_HOST, name, {"name": name, "domains": [host], "routes": routes})


def without_clusters(bootstrap: Bootstrap) -> None:
    """Listeners over ADS, clusters when they are needed."""
    bootstrap.dynamic_resources.ClearField("cds_config")


async def answers(xds: Scripted, name: str) -> bool:
    return await xds.get() == (200, name)
