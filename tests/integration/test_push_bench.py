"""The push benchmark at its smallest: three proxies of the compiled kind, a bridge that reads a real etcd, and its rivals."""

from __future__ import annotations

import pytest

from bench.push.catalog import Population
from bench.push.matrix import round_of
from bench.push.run import open_place
from bench.push.servers import ISTHMUS, LINEAR, PLAIN, SNAPSHOT, SNAPSHOT_NODE, Shape, start, subscribe
from isthmus.xds.resource import TypeUrl

PROXIES = 3
CHANGES = 3

EDS = Shape("eds", TypeUrl.ENDPOINT, Population(1, 4))
CDS = Shape("cds", TypeUrl.CLUSTER, Population(4, 1))
CDS_DELTA = Shape("cds_delta", TypeUrl.CLUSTER, Population(4, 1), delta=True)
EDS_TLS = Shape("eds_tls", TypeUrl.ENDPOINT, Population(1, 4), tls=True)


@pytest.mark.parametrize("shape", [EDS, CDS, CDS_DELTA, EDS_TLS], ids=lambda shape: shape.name)
async def test_each_change_is_one_response_to_each_proxy_whoever_serves(shape: Shape) -> None:
    """What is counted as pushes are pushes: no server sends more or less, and all send the same."""
    labels = (ISTHMUS, LINEAR) if shape.tls else (ISTHMUS, LINEAR, SNAPSHOT, SNAPSHOT_NODE, PLAIN)
    counted: dict[str, dict[str, int]] = {}
    async with open_place() as place, start(labels, shape, place, place.directory / shape.name) as servers:
        for server in servers:
            await place.load.order(subscribe(shape, server.address, place, PROXIES))
            await place.load.order({"do": "count"})
            latencies = [await round_of(server, place.load) for _ in range(CHANGES)]
            counted[server.label] = await place.load.order({"do": "count"})
            await place.load.order({"do": "close"})
            assert all(0 < latency < 10_000 for latency in latencies), server.label
    resources = 4 if shape is CDS else 1
    for label, count in counted.items():
        assert count["responses"] == CHANGES * PROXIES, label
        assert count["resources"] == CHANGES * PROXIES * resources, label
        # Versions, nonces and what a server says about itself differ in length; in one response that is what there is.
        assert abs(count["bytes"] - counted[ISTHMUS]["bytes"]) < 200 * count["responses"], label


async def test_proxies_come_back() -> None:
    """The oldest proxies are ended and begun anew, and are pushed to like the others."""
    async with open_place() as place, start([ISTHMUS], EDS, place, place.directory / "again") as (server,):
        await place.load.order(subscribe(EDS, server.address, place, PROXIES))
        assert (await place.load.order({"do": "reconnect", "number": 2}))["seconds"] > 0
        await place.load.order({"do": "count"})
        await round_of(server, place.load)
        assert (await place.load.order({"do": "count"}))["responses"] == PROXIES
