"""What the xDS server counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from isthmus.xds.resource import TypeUrl

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class XdsMetrics:
    """Prometheus metrics of one server, with one child per type made beforehand."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pushes = Counter("isthmus_xds_pushes", "Responses sent.", ["type"], registry=registry)
        sent = Counter("isthmus_xds_push_bytes", "Bytes of the responses sent.", ["type"], registry=registry)
        resources = Counter("isthmus_xds_resources", "Resources in the responses sent.", ["type"], registry=registry)
        acks = Counter("isthmus_xds_acks", "Responses that proxies accepted.", ["type"], registry=registry)
        nacks = Counter("isthmus_xds_nacks", "Responses that proxies rejected.", ["type"], registry=registry)
        self.streams = Gauge("isthmus_xds_streams", "Open streams.", registry=registry)
        self.refused = Counter(
            "isthmus_xds_refused", "Streams that were ended or not let in, by reason.", ["reason"], registry=registry
        )
        self.slowed = Counter(
            "isthmus_xds_slowed", "Streams that sent more than they may and are read slowly.", registry=registry
        )
        self.load = LoadMetrics(registry)
        self.generation = Gauge(
            "isthmus_xds_generation", "Changes of the resources since the start.", registry=registry
        )
        lag = Histogram(
            "isthmus_change_to_ack_seconds",
            "From reading a change in a registry until a proxy acknowledged it.",
            ["type"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.pushes = {t: pushes.labels(t.short) for t in TypeUrl}
        self.push_bytes = {t: sent.labels(t.short) for t in TypeUrl}
        self.resources = {t: resources.labels(t.short) for t in TypeUrl}
        self.acks = {t: acks.labels(t.short) for t in TypeUrl}
        self.nacks = {t: nacks.labels(t.short) for t in TypeUrl}
        self.change_to_ack = {t: lag.labels(t.short) for t in TypeUrl}


class LoadMetrics:
    """What proxies report of the requests that they carry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "isthmus_load_requests",
            "Requests that proxies say they sent (issued) and finished (success, error), by cluster and locality.",
            ["cluster", "locality", "outcome"],
            registry=registry,
        )
        self.dropped = Counter(
            "isthmus_load_dropped", "Requests that proxies say they dropped.", ["cluster"], registry=registry
        )
