"""What an Envoy refuses is not sent to it again: it keeps what it had, and gets everything else."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.server.status import ProxyType
from isthmus.xds.translate.listeners import OUTBOUND_HTTP
from tests.e2e.scripted import ADS, Scripted, at, mk_cluster, mk_resource, mk_routes, says
from tests.e2e.translated import Translated, cluster, each, host
from tests.servers.envoy import Envoy
from tests.servers.upstream import Upstream, constant_load, get
from tests.wait import eventually


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A socket that listens, so that nobody else can at its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


@each
async def test_a_cluster_and_a_listener_are_refused(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream], taken: socket.socket
) -> None:
    """A cluster becomes one that Envoy does not take, and a listener's address is taken: together with good changes. Rule 12."""
    one, two = upstreams
    town.change(*(town.http(f"web{n}", one) for n in range(3)), town.tcp("db", one))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")
    spoilt, port = cluster(town.http("web0")), taken.getsockname()[1]

    async with constant_load(town.port, host("web0")) as load:
        town.change(
            town.http("web1", two),
            town.http("added", one),
            written=[mk_cluster(spoilt, type="EDS"), mk_tcp_listener("spoilt", port, spoilt)],
        )
        await eventually(partial(_rejected, envoy, CDS=1, LDS=1), "both have been refused")
        await eventually(partial(_answers, town, "added", "one"), "what was added with them is served")
        await eventually(partial(_answers, town, "web1", "two"), "what was changed with them is in use")
        no_source = f"Error adding/updating cluster(s) {spoilt}: cannot create an EDS cluster without an EDS config"
        assert (_type(town, "CDS").state, _type(town, "CDS").error) == ("REJECTED", no_source)
        in_use = f"Error adding/updating listener(s) spoilt: cannot bind '127.0.0.1:{port}': Address already in use"
        assert (_type(town, "LDS").state, _type(town, "LDS").error.strip()) == ("REJECTED", in_use)

        for n in range(3):
            town.change(town.http(f"later{n}", two), town.tcp(f"later-db{n}", two))
            await eventually(partial(_answers, town, f"later{n}", "two"), "a new service is served")
            await eventually(partial(_answers_tcp, town, f"later-db{n}", "two"), "a new listener listens")
        assert await _rejected(envoy, CDS=1, LDS=1), "they have been refused once"

        load.recent()
        await eventually(lambda: load.answers["one"] > 5, "the refused cluster serves on as it was")
        town.change(
            town.http("web0", two), written=[mk_tcp_listener("spoilt", town.tcp_port, cluster(town.http("web1")))]
        )
        await eventually(lambda: load.answers["two"] > 5, "the repaired cluster is in use")
        await town.followed("both have been repaired")
        assert await get(town.tcp_port, "anything") == (200, "two")
    assert load.failures == []
    assert await _rejected(envoy, CDS=1, LDS=1)
    assert {of_kind.timed_out for of_kind in (await envoy.updates()).values()} == {0}


@each
async def test_routes_are_refused(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Requests go by the routes from before, and so they do when services come whose routes would be among the refused."""
    one, two = upstreams
    town.change(town.http("web", one))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")
    twice = mk_routes(OUTBOUND_HTTP, says("here", "same.test"), says("there", "same.test"))

    async with constant_load(town.port, host("web")) as load:
        town.change(written=[mk_resource(TypeUrl.ROUTE, OUTBOUND_HTTP, twice)])
        await eventually(partial(_rejected, envoy, RDS=1), "the routes have been refused")
        await eventually(lambda: _type(town, "RDS").state == "REJECTED", "the bridge has been told")
        assert "Duplicate entry of domain same.test in route outbound_http" in _type(town, "RDS").error

        town.change(town.http("web", two), town.tcp("db", two))
        await eventually(partial(_answers_tcp, town, "db", "two"), "a new listener listens")
        await eventually(lambda: load.answers["two"] > 5, "an instance has moved")

        town.change(town.http("added", one), written=[])
        await eventually(partial(_answers, town, "added", "one"), "the repaired routes are in use")
        await town.followed("the routes have been repaired")
    assert load.failures == []
    assert await _rejected(envoy, RDS=1)


@each
async def test_a_listener_whose_address_has_become_free(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream], taken: socket.socket
) -> None:
    """Nothing tells a bridge that it could be taken now; Envoy is offered it again when it connects again."""
    one, _ = upstreams
    port = taken.getsockname()[1]
    town.change(town.http("web", one), written=[mk_tcp_listener("spoilt", port, cluster(town.http("web")))])
    envoy = await town.envoy(version, delta=delta)
    await eventually(partial(_rejected, envoy, LDS=1), "the listener has been refused")
    assert await town.get_http("web") == (200, "one")

    taken.close()
    await town.restart()
    await town.followed("Envoy has come back", 20)
    assert await get(port, "anything") == (200, "one")
    assert await _rejected(envoy, LDS=1)


@pytest.mark.parametrize("type_url", [TypeUrl.CLUSTER, TypeUrl.ENDPOINT], ids=lambda t: t.short)
@each
async def test_a_response_is_refused_whole(
    version: str, delta: bool, type_url: TypeUrl, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """One value beyond a field's limits, and Envoy reads nothing of the response: the others come again without it."""
    one, two = upstreams
    town.change(*(town.http(f"web{n}", one) for n in range(3)))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")

    town.change(
        town.http("web1", two), town.http("added", one), without=["web2"], written=[_unreadable(town, type_url, two)]
    )
    await eventually(partial(_has_rejected, envoy, type_url.short), "it has been refused")
    await eventually(partial(_answers, town, "web1", "two"), "what was changed with it is in use")
    await eventually(partial(_answers, town, "added", "one"), "what was added with it is served")
    gone = cluster(town.http("web2"))
    await eventually(partial(_is_gone, envoy, gone), "what was removed with it is gone")
    assert await town.get_http("web0") == (200, "one")
    refusals = (await envoy.updates())[type_url.short].rejected
    assert _type(town, type_url.short).state == "REJECTED", "it is shown as long as it lasts"
    assert "Proto constraint validation failed" in _type(town, type_url.short).error

    town.change(town.http("web0", two), written=[])
    await eventually(partial(_answers, town, "web0", "two"), "what was repaired is in use")
    await town.followed("all is well")
    assert (await envoy.updates())[type_url.short].rejected == refusals


@pytest.mark.parametrize("type_url", [TypeUrl.CLUSTER, TypeUrl.ENDPOINT], ids=lambda t: t.short)
@each
async def test_the_first_response_is_refused_whole(
    version: str, delta: bool, type_url: TypeUrl, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """An Envoy that starts becomes ready with the rest."""
    one, two = upstreams
    town.change(town.http("web0", one), town.http("web1", one), written=[_unreadable(town, type_url, one)])
    await town.envoy(version, delta=delta)
    await eventually(partial(_answers, town, "web1", "one"), "the rest is served")
    town.change(town.http("web0", two), written=[])
    await eventually(partial(_answers, town, "web0", "two"), "what was repaired is in use")


def _unreadable(town: Translated, type_url: TypeUrl, upstream: Upstream) -> Resource:
    """The cluster or the endpoints of `web0` with a value that Envoy's field rules forbid."""
    name = cluster(town.http("web0"))
    if type_url is TypeUrl.CLUSTER:
        return mk_cluster(name, type="STATIC", connect_timeout="0s")
    policy = {"drop_overloads": [{"category": ""}]}
    return mk_resource(TypeUrl.ENDPOINT, name, {**at(name, upstream.port), "policy": policy})


def mk_tcp_listener(name: str, port: int, of_cluster: str) -> Resource:
    """A listener of 127.0.0.1 that carries connections to a cluster."""
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": of_cluster,
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
    return mk_resource(TypeUrl.LISTENER, name, {"name": name, "address": address, "filter_chains": [chain]})


def _type(town: Translated, short: str) -> ProxyType:
    """What `isthmus proxy-status` shows of a type."""
    (proxy,) = town.server.proxies()
    return next(t for t in proxy.types if t.type == short)


async def _rejected(envoy: Envoy, **wanted: int) -> bool:
    """Whether these many responses have been refused, and none of other types."""
    counted = {kind: of_kind.rejected for kind, of_kind in (await envoy.updates()).items() if of_kind.rejected}
    assert counted == wanted
    return True


async def _has_rejected(envoy: Envoy, kind: str) -> bool:
    return (await envoy.updates())[kind].rejected > 0


async def _is_gone(envoy: Envoy, name: str) -> bool:
    return await envoy.active(name) is None


async def _answers(town: Translated, name: str, answer: str) -> bool:
    return await town.get_http(name) == (200, answer)


async def _answers_tcp(town: Translated, name: str, answer: str) -> bool:
    return await town.get_tcp(name) == (200, answer)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
async def test_a_refusal_that_names_nothing(xds: Scripted, delta: bool) -> None:
    """Of many endpoints that change at once one is malformed: Envoy does not say whose, and the others all get there. Rule 12."""
    names = [f"service{number}" for number in range(20)]
    source = {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
    xds.publish(*(mk_cluster(n, **source) for n in names))
    xds.publish(*(mk_resource(TypeUrl.ENDPOINT, n, at(n, 1000)) for n in names))
    envoy = await xds.envoy(delta=delta)

    bad = at("service7", 2000)
    bad["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] = "no address"
    changed = {n: at(n, 2000) for n in names} | {"service7": bad}
    xds.publish(*(mk_resource(TypeUrl.ENDPOINT, n, assignment) for n, assignment in changed.items()))

    async def ports() -> dict[str, str]:
        return dict(re.findall(r"(service\d+)::127\.0\.0\.1:(\d+)::", (await envoy.admin("/clusters")).decode()))

    async def has_the_rest() -> bool:
        return await ports() == dict.fromkeys(names, "2000") | {"service7": "1000"}

    await eventually(has_the_rest, "it has the rest")
    (proxy,) = xds.server.proxies()
    (error,) = [t.error for t in proxy.types if t.type == "EDS"]
    assert "malformed IP address: no address" in error

    xds.publish(mk_resource(TypeUrl.ENDPOINT, "service7", at("service7", 3000)))
    await eventually(lambda: is_in_step(xds), "it takes what was mended")
    assert (await ports())["service7"] == "3000"


def is_in_step(xds: Scripted) -> bool:
    return all(t.state == "SYNCED" for p in xds.server.proxies() for t in p.types)
