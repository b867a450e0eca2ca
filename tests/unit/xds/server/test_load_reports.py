"""LRS: what proxies report of their requests becomes metrics."""

from __future__ import annotations

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Locality, Node
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats, UpstreamLocalityStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from isthmus.xds.server import load_reports
from isthmus.xds.server.services import LOAD_REPORTS_PATH
from tests.unit.xds.server.wire import Served

HERE = Locality(region="eu", zone="eu-1")


@pytest.fixture
async def served() -> Served:
    served = Served()
    served.publish({"reviews": "", "details": ""})
    return served


def begin(served: Served, node: str = "envoy") -> int:
    stream = served.wire.open(LOAD_REPORTS_PATH)
    served.wire.say(stream, LoadStatsRequest(node=Node(id=node)))
    return stream


def report(cluster: str, locality: Locality = HERE, dropped: int = 0, **numbers: int) -> LoadStatsRequest:
    stats = UpstreamLocalityStats(locality=locality, **{f"total_{n}_requests": v for n, v in numbers.items()})  # type: ignore[arg-type]
    return LoadStatsRequest(
        cluster_stats=[
            ClusterStats(cluster_name=cluster, upstream_locality_stats=[stats], total_dropped_requests=dropped)
        ]
    )


def total(served: Served, cluster: str, locality: str, outcome: str = "issued") -> float:
    return served.metric("isthmus_load_requests_total", cluster=cluster, locality=locality, outcome=outcome)


async def test_a_proxy_is_told_once_what_to_report(served: Served) -> None:
    """Rule 51."""
    stream = begin(served)
    served.wire.say(stream, report("reviews", issued=1))

    (message,) = served.wire.sent[stream]
    answer = LoadStatsResponse.FromString(message)
    assert answer.send_all_clusters
    assert answer.load_reporting_interval.seconds == 7
    assert served.server.proxies() == []


async def test_reports_of_all_proxies_add_up(served: Served) -> None:
    streams = [begin(served, node) for node in ("one", "two")]
    for stream in streams:
        served.wire.say(stream, report("reviews", issued=5, successful=3, error=1, dropped=2))
        served.wire.say(stream, report("reviews", issued=1, successful=2))

    assert [total(served, "reviews", "eu/eu-1", o) for o in ("issued", "success", "error")] == [12, 10, 2]
    assert served.metric("isthmus_load_dropped_total", cluster="reviews") == 4
    assert total(served, "details", "eu/eu-1") == 0


async def test_what_is_no_cluster_does_not_become_a_label(served: Served) -> None:
    stream = begin(served)
    for i in range(100):
        served.wire.say(stream, report(f"invented{i}", issued=1))

    assert total(served, "other", "") == 100
    clusters = {s.labels["cluster"] for m in served.server.metrics.load.requests.collect() for s in m.samples}
    assert clusters == {"other"}


async def test_labels_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that invents localities fills no memory; what was there before is counted as before."""
    monkeypatch.setattr(load_reports, "SERIES_LIMIT", 3)
    stream = begin(served)
    served.wire.say(stream, report("reviews", issued=1))
    for i in range(50):
        served.wire.say(stream, report("reviews", Locality(region=f"invented{i}"), issued=1))
    served.wire.say(stream, report("reviews", issued=1))

    assert total(served, "reviews", "eu/eu-1") == 2
    assert total(served, "other", "") == 48


async def test_bytes_that_are_no_report(served: Served) -> None:
    stream = served.wire.open(LOAD_REPORTS_PATH)

    served.wire.say(stream, b"\xff")

    assert served.wire.closed[stream] == (grpc.StatusCode.INVALID_ARGUMENT, "the request is not a load report")
