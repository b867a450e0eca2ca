"""Metrics of registries and of the store, read from their status when Prometheus asks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from prometheus_client import disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from isthmus.bridge.state import VirtualIPs
from isthmus.registry.hub import Hub
from isthmus.registry.kv.measured import MeasuredStore

# The time of its creation beside every counter would double the page, and nothing reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]


class RegistryCollector(Collector):
    """`isthmus_registry_*`, one sample per origin."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        labels = ["origin", "kind"]
        gauges = {
            name: GaugeMetricFamily(f"isthmus_registry_{name}", text, labels=labels)
            for name, text in (
                ("synced", "1 when a complete listing has arrived since the start."),
                ("last_success_timestamp_seconds", "When the registry last proved to be there and current."),
                ("staleness_seconds", "Age of what is served, since the last proof of life; 0 while it is current."),
                ("services", "Services that it knows."),
                ("instances", "Instances that it knows, held ones included."),
                ("quarantined", "Objects that could not be used."),
                ("held", "Instances that are served although it does not list them."),
                ("removed", "Instances that are left out of the catalog because doubt.remove says so."),
                ("feed_live", "1 while its changes are pushed to the bridge; only where it is asked to."),
                ("doubted_services", "Services whose absence, or that of their instances, it cannot prove."),
                ("reads_last_minute", "Requests answered in the last minute."),
                ("max_reads_per_minute", "The most that may be; only where there is such a limit."),
                ("max_connections", "The most connections that are opened to it; only where there is such a limit."),
            )
        }
        counters = {
            name: CounterMetricFamily(f"isthmus_registry_{name}", text, labels=labels)
            for name, text in (
                ("reads", "Requests answered."),
                ("errors", "Requests failed."),
                ("read_waits", "Times that requests began to wait for the budget of reads."),
                ("watch_wake_ups", "Watches that came back because something changed."),
                ("audits", "Comparisons of what watches brought with a complete listing."),
                ("drift", "Services in which an audit found a difference that it cannot explain."),
            )
        }
        now = time.time()
        held: dict[str, int] = {}
        for hold in self._hub.holds:
            held[hold.instance.origin] = held.get(hold.instance.origin, 0) + 1
        removed = Counter(r.instance.origin for rs in self._hub.removed.values() for r in rs)
        for name, status in self._hub.statuses.items():
            at = [name, status.origin.kind]
            snapshot = self._hub.sources[name].shown
            services = snapshot.services if snapshot else {}
            gauges["synced"].add_metric(at, float(status.synced))
            gauges["last_success_timestamp_seconds"].add_metric(at, status.last_success or 0.0)
            gauges["staleness_seconds"].add_metric(at, 0.0 if status.stale_since is None else now - status.stale_since)
            gauges["services"].add_metric(at, len(services))
            gauges["instances"].add_metric(at, sum(len(s.instances) for s in services.values()))
            gauges["quarantined"].add_metric(at, len(status.quarantined))
            gauges["held"].add_metric(at, held.get(name, 0))
            gauges["removed"].add_metric(at, removed[name])
            if status.feed:
                gauges["feed_live"].add_metric(at, float(status.feed == "live"))
            gauges["doubted_services"].add_metric(at, status.doubted)
            gauges["reads_last_minute"].add_metric(at, status.reads_last_minute)
            if status.max_reads_per_minute is not None:
                gauges["max_reads_per_minute"].add_metric(at, status.max_reads_per_minute)
            if status.max_connections is not None:
                gauges["max_connections"].add_metric(at, status.max_connections)
            counters["reads"].add_metric(at, status.reads)
            counters["read_waits"].add_metric(at, status.delays)
            counters["errors"].add_metric(at, status.errors)
            counters["watch_wake_ups"].add_metric(at, status.wake_ups)
            counters["audits"].add_metric(at, status.audits)
            counters["drift"].add_metric(at, status.drift)
        yield from gauges.values()
        yield from counters.values()


class StoreCollector(Collector):
    """`isthmus_store_*`, and who waits for it."""

    def __init__(self, store: MeasuredStore, vips: VirtualIPs) -> None:
        self._store = store
        self._vips = vips

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        store = self._store
        for kind, name, text, value in (
            (CounterMetricFamily, "store_requests", "Requests to the store that were answered.", store.requests),
            (CounterMetricFamily, "store_errors", "Requests to the store that failed.", store.errors),
            (GaugeMetricFamily, "store_up", "1 when the last request to the store was answered.", store.up),
            (
                GaugeMetricFamily,
                "store_last_success_timestamp_seconds",
                "When the store last answered; it is asked when something is to be read or written.",
                store.last_success or 0.0,
            ),
        ):
            family = kind(f"isthmus_{name}", text, labels=["store"])
            family.add_metric([store.where], float(value))
            yield family
        waiting = "TCP services that have no address, since the store cannot be written."
        yield GaugeMetricFamily("isthmus_virtual_ips_waiting", waiting, value=len(self._vips.waiting))
