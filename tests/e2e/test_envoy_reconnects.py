"""A server is replaced by another at the same address: an Envoy is sent what differs from what it has, and goes on meanwhile."""

from __future__ import annotations

from collections import Counter

from isthmus.registry.model import OutlierDetection
from isthmus.xds.resource import TypeUrl
from tests.e2e.translated import Translated, cluster, each, host
from tests.servers.envoy import Envoy
from tests.servers.upstream import Upstream, constant_load
from tests.wait import eventually

SERVED = (TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER, TypeUrl.ROUTE)


@each
async def test_an_envoy_is_sent_the_difference(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Nothing if nothing has changed; otherwise, with delta, what has changed, and with state of the world what there is.

    Rule 29.
    """
    one, two = upstreams
    services = [town.http(f"web{n}", one) for n in range(20)] + [town.tcp(f"db{n}", one) for n in range(10)]
    town.change(*services)
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")
    before = await _accepted(envoy)

    def change() -> None:
        rules = OutlierDetection(ejection_time=31)
        town.change(
            town.http("web1", two), town.tcp("db1", one, rules=rules), town.http("new", two), without=["web2", "db2"]
        )

    async with constant_load(town.port, host("web0")) as load:
        for _ in range(2):
            await town.restart()
            await town.followed("Envoy has come back", 20)
            assert [town.sent(type_url) for type_url in SERVED] == [0, 0, 0, 0]
        assert await _accepted(envoy) == before

        clusters, listeners = (
            await _counted(envoy, "cluster_manager.cluster"),
            await _counted(envoy, "listener_manager.listener"),
        )
        await town.restart(change)
        await town.followed("Envoy has come back to something else", 20)
        # One added, one changed, two gone; nothing else was touched, whatever was sent.
        assert await _counted(envoy, "cluster_manager.cluster") - clusters == Counter(added=1, modified=1, removed=2)
        assert await _counted(envoy, "listener_manager.listener") - listeners == Counter(removed=1)
        load.recent()
        await eventually(lambda: load.answers["one"] > 5, "the others are served on")
    assert load.failures == []
    assert await town.get_http("web1") == await town.get_http("new") == (200, "two")
    assert (await town.get_http("web2"))[0] == 502
    touched = {name for name, count in (await _accepted(envoy) - before).items() if count}
    changed = {f"cluster.{cluster(s)}" for s in (town.http("web1"), town.tcp("db1"), town.http("new"))}
    others = {"cluster_manager.cds", "listener_manager.lds", "http.outbound.rds.outbound_http"}
    if delta:
        assert touched == changed | others
        # Two resources and two names of clusters, three of endpoints and perhaps the two that went, one name of a listener.
        sent = [town.sent(type_url) for type_url in SERVED]
        assert (sent[0], sent[2:]) == (4, [1, 1])
        assert sent[1] <= 5
    else:
        assert touched >= changed | others
    assert await envoy.rejected() == {}


@each
async def test_a_server_that_stops_half_way(
    version: str, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Stopped in the moment in which it has sent new clusters: what Envoy waits for it gets from the next server."""
    one, two = upstreams
    town.change(town.http("web", one), town.tcp("db", one))
    envoy = await town.envoy(version, delta=delta)
    await town.followed("the first configuration")

    rules = OutlierDetection(ejection_time=31)
    for n in range(2):
        town.change(town.http(f"new{n}", two), town.http("web", two, rules=rules))
        await town.restart(lambda n=n: town.change(town.tcp(f"newer{n}", two)))  # type: ignore[misc]
        await town.followed("Envoy has all of it", 14)
        assert await town.get_http(f"new{n}") == await town.get_http("web") == (200, "two")
        assert await town.get_tcp(f"newer{n}") == (200, "two")
    assert await envoy.rejected() == {}


async def _accepted(envoy: Envoy) -> Counter[str]:
    """How many updates each subscription has had."""
    stats = await envoy.stats(r".*\.update_success$")
    return Counter({name.removesuffix(".update_success"): value for name, value in stats.items()})


async def _counted(envoy: Envoy, prefix: str) -> Counter[str]:
    """What has been done to clusters or listeners."""
    stats = await envoy.stats(rf"{prefix}_(added|modified|removed)$")
    return Counter({name.rpartition("_")[2]: value for name, value in stats.items()})
