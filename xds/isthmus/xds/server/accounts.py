"""What was sent, accepted and refused, counted; and how long a change took until a proxy had it."""

from __future__ import annotations

import time

import structlog

from isthmus.xds.protocol.response import Outcome, Received, Response
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.calls import Proxy
from isthmus.xds.server.metrics import XdsMetrics

log = structlog.get_logger()

_SERVED = {str(t): t for t in TypeUrl}
"""What is counted; delta streams answer for other types too, with nothing."""
_NAMED = 10
"""Resources of a refused push that the log names."""


class Accounts:
    """Keeps the metrics of all streams, and each proxy's lag."""

    def __init__(self, metrics: XdsMetrics) -> None:
        self._metrics = metrics

    def sent(self, response: Response | None, message: bytes, times: int) -> None:
        """A message has gone to the transport, to so many streams; it is counted if it is a response."""
        type_url = _SERVED.get(response.type_url) if response else None
        if response is None or type_url is None:
            return
        self._metrics.pushes[type_url].inc(times)
        self._metrics.push_bytes[type_url].inc(times * len(message))
        self._metrics.resources[type_url].inc(times * (len(response.resources) + len(response.removed)))

    def settled(self, proxy: Proxy, received: Received) -> None:
        """A request has come, which may accept or refuse a response."""
        settled = received.settled
        type_url = _SERVED.get(received.type_url)
        if settled is None or type_url is None or proxy.view is None:
            return
        if received.outcome is Outcome.NACKED:
            self._metrics.nacks[type_url].inc()
            log.warning(
                "xds.nack",
                node=proxy.node,
                type=type_url.short,
                version=settled.version,
                resources=list(received.parked or (r.name for r in settled.resources))[:_NAMED],
                error=received.error,
            )
            return
        self._metrics.acks[type_url].inc()
        changed_at = proxy.view.changed_between(settled.since, settled.generation)
        if changed_at is not None and not settled.is_initial:
            lag = time.monotonic() - changed_at
            self._metrics.change_to_ack[type_url].observe(lag)
            proxy.lag_ms[type_url] = lag * 1000
