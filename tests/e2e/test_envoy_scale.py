"""Thousands of clusters with endpoints: each is sent once, none is waited for, and a change afterwards is a change of one."""

from __future__ import annotations

import pytest

from isthmus.registry.model import OutlierDetection
from tests.e2e.translated import Translated, cluster
from tests.peers import ENVOYS
from tests.servers.envoy import LATEST, Updates
from tests.servers.upstream import Upstream

PATIENCE = 60
"""Seconds: Envoy itself works on 10,000 clusters for some, and machines may be busy. What it waits for is counted, not timed."""


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
@pytest.mark.parametrize(("version", "count"), [(v, 10_000 if v == LATEST else 2_000) for v in ENVOYS])
async def test_many_clusters(
    version: str, count: int, delta: bool, town: Translated, upstreams: tuple[Upstream, Upstream]
) -> None:
    """Rule 37."""
    one, two = upstreams
    town.change(*(town.http(f"web{n}", one) for n in range(count)))
    envoy = await town.envoy(version, delta=delta, timeout=PATIENCE)
    await town.followed("the first configuration", PATIENCE)

    # One response of each type. Each subscription counts its start and that: Envoy has one per cluster for endpoints.
    once = Updates(attempted=2, accepted=1)
    first = {"CDS": once, "EDS": Updates(attempted=2 * count, accepted=count), "LDS": once, "RDS": once}
    assert await envoy.updates() == first
    for name in ("web0", f"web{count - 1}"):
        assert await town.get_http(name) == (200, "one")

    town.change(town.http("web0", two))
    await town.followed("an instance has moved", PATIENCE)
    assert await town.get_http("web0") == (200, "two")
    assert await envoy.updates() == first | {"EDS": Updates(2 * count + 1, count + 1)}

    town.change(town.http("web1", one, rules=OutlierDetection(ejection_time=31)))
    await town.followed("a cluster has changed", PATIENCE)
    changed = await envoy.updates()
    assert changed["CDS"] == Updates(attempted=3, accepted=2)
    # A changed cluster subscribes anew; some versions count the response for the one before it as well.
    assert changed["EDS"].accepted in (count + 2, count + 3)
    assert changed["EDS"].rejected == changed["EDS"].timed_out == 0
    assert (changed["LDS"], changed["RDS"]) == (once, once)

    town.change(without=["web2"])
    await town.followed("a service has gone", PATIENCE)
    assert await envoy.active(cluster(town.http("web2"))) is None
    removed = await envoy.updates()
    assert removed["CDS"] == Updates(attempted=4, accepted=3)
    assert removed["RDS"] == Updates(attempted=3, accepted=2)
    assert removed["LDS"] == once
    stats = await envoy.stats("cluster_manager.(cluster_(added|modified|removed)|active_clusters|warming_clusters)$")
    # One more than ours leads to the server.
    assert stats == {
        "cluster_manager.active_clusters": count,
        "cluster_manager.cluster_added": count + 1,
        "cluster_manager.cluster_modified": 1,
        "cluster_manager.cluster_removed": 1,
        "cluster_manager.warming_clusters": 0,
    }
    assert await envoy.rejected() == {}
