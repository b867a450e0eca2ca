"""Load reports of proxies (LRS, envoy.service.load_stats.v3) become metrics, by cluster and locality.

Proxies report what has happened since their last report, so reports add up whichever proxy or stream they come on. What they call
a cluster becomes a label only if it is one, and only as long as there are not too many: a client must not fill the memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import structlog
from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from google.protobuf.message import DecodeError

from isthmus.xds.server.calls import Call
from isthmus.xds.server.metrics import LoadMetrics
from isthmus.xds.server.refusal import wrong

log = structlog.get_logger()

SERIES_LIMIT = 10_000
"""Pairs of cluster and locality that are kept apart; all others are counted together."""
OTHER = ("other", "")
_LABEL_LIMIT = 128
"""Characters of each part of a locality."""


class LoadReports:
    """Takes the reports of all proxies. `interval` is in seconds; `is_cluster` says whether a name is one that is served."""

    def __init__(self, metrics: LoadMetrics, interval: float, is_cluster: Callable[[str], bool]) -> None:
        self._metrics = metrics
        self._is_cluster = is_cluster
        self._pairs: set[tuple[str, str]] = set()
        self._welcome = LoadStatsResponse(
            send_all_clusters=True, load_reporting_interval=dt.timedelta(seconds=interval)
        ).SerializeToString()

    def receive(self, call: Call, message: bytes) -> None:
        """Take one report. A stream's first one is answered with what to report and how often.

        Raises:
            Refusal: it cannot be understood.

        """
        try:
            request = LoadStatsRequest.FromString(message)
        except DecodeError:
            raise wrong("protocol", "the request is not a load report") from None
        if not call.greeted:
            call.greeted = True
            log.info("xds.load_reports", node=request.node.id[:_LABEL_LIMIT], peer=call.peer)
            call.outbox.append((None, self._welcome))
        for stats in request.cluster_stats:
            self._count(stats)

    def _count(self, stats: ClusterStats) -> None:
        metrics, cluster = self._metrics, stats.cluster_name
        if stats.total_dropped_requests:
            metrics.dropped.labels(self._pair(cluster, "")[0]).inc(stats.total_dropped_requests)
        for locality in stats.upstream_locality_stats:
            pair = self._pair(cluster, _name(locality.locality))
            for outcome, number in (
                ("issued", locality.total_issued_requests),
                ("success", locality.total_successful_requests),
                ("error", locality.total_error_requests),
            ):
                if number:
                    metrics.requests.labels(*pair, outcome).inc(number)

    def _pair(self, cluster: str, locality: str) -> tuple[str, str]:
        pair = (cluster, locality)
        if pair in self._pairs:
            return pair
        if len(self._pairs) >= SERIES_LIMIT or not self._is_cluster(cluster):
            return OTHER
        self._pairs.add(pair)
        return pair


def _name(locality: Locality) -> str:
    parts = (locality.region, locality.zone, locality.sub_zone)
    return "/".join(p[:_LABEL_LIMIT] for p in parts).rstrip("/")
