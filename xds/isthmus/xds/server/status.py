"""What is known of each connected proxy, for `proxy-status` and the debug page."""

from __future__ import annotations

import msgspec


class ProxyType(msgspec.Struct, frozen=True):
    """One type on one proxy. `state` is istioctl's word: SYNCED, STALE (sent, not acknowledged), NOT SENT, or REJECTED."""

    type: str
    state: str
    sent: str
    acked: str
    subscribed: int
    """Names asked for; -1 for all of them."""
    lag_ms: float | None
    """From reading the last change in its registry to this proxy's acknowledgement."""
    error: str


class ProxyStatus(msgspec.Struct, frozen=True):
    """One stream of a connected proxy; most proxies have one, those that ask for each type by itself have several."""

    node: str
    cluster: str
    peer: str
    variant: str
    """`delta` or `sotw`."""
    user_agent: str
    connected_since: float
    """Seconds since the epoch."""
    types: tuple[ProxyType, ...]
    kind: str = ""
    """`envoy`, `grpc` or `agent`."""
    outbound: str = ""
    """Which listeners an Envoy has for what leaves the workload: `listener`, `addresses`, `captured`, `explicit` or `none`."""
    remark: str = ""
    """What the bridge does not understand of its node, and what it makes of it."""
