"""What the DNS counts. A question costs microseconds, so it is counted in a plain number and shown when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from isthmus.agent.dns.answer import Result

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class DnsMetrics(Collector):
    """Prometheus metrics of one DNS."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.udp = dict.fromkeys(Result, 0)
        self.tcp = dict.fromkeys(Result, 0)
        self.forwarded = Histogram(
            "isthmus_agent_dns_upstream_seconds",
            "From a question that was passed on until its answer, or until there was none.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.upstream_up = Gauge(
            "isthmus_agent_dns_upstream_up", "Whether an upstream is asked: 1, or 0.", ["upstream"], registry=registry
        )
        self.names = Gauge("isthmus_agent_dns_names", "Names of the mesh that are answered.", registry=registry)
        self.connected = Gauge(
            "isthmus_agent_dns_connected", "Whether the names are followed at the bridge: 1, or 0.", registry=registry
        )
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Questions by protocol and by how they ended."""
        family = CounterMetricFamily(
            "isthmus_agent_dns_queries", "Questions, by how they ended.", labels=["protocol", "result"]
        )
        for protocol, counts in (("udp", self.udp), ("tcp", self.tcp)):
            for result, count in counts.items():
                family.add_metric([protocol, result], count)
        yield family
