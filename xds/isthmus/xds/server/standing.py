"""Where a stream stands, read off its machine. The values are apart (`status.py`), for commands that only show them."""

from __future__ import annotations

from isthmus.xds.group import Kind
from isthmus.xds.protocol.response import TypeStatus
from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.calls import Proxy
from isthmus.xds.server.status import ProxyStatus, ProxyType


def status_of(proxy: Proxy) -> ProxyStatus:
    """Where a stream stands."""
    group = proxy.group
    statuses = proxy.machine.status() if proxy.machine is not None else ()
    return ProxyStatus(
        node=proxy.node,
        cluster=proxy.cluster,
        peer=proxy.peer,
        variant="delta" if proxy.delta else "sotw",
        user_agent=proxy.user_agent,
        connected_since=proxy.connected_since,
        types=tuple(_type(proxy, s, _SERVED[s.type_url]) for s in statuses if s.type_url in _SERVED),
        kind=group.kind.value if group else "",
        outbound=group.outbound.value if group and group.kind is Kind.ENVOY else "",
        remark=proxy.remark,
    )


def follower_of(proxy: Proxy, type_url: TypeUrl, name: str) -> tuple[bool, str]:
    """Whether a proxy has one resource as it is served now, and that in words."""
    machine, view = proxy.machine, proxy.view
    status = next((s for s in machine.status() if s.type_url == type_url), None) if machine else None
    told = machine.told(type_url, name) if machine else None
    current = view.snapshot.of_type(type_url).get(name) if view else None
    if status is not None and name in status.parked:
        return False, f"rejected it, and goes on with what it had: {status.error}"
    if told is None or status is None:
        return False, "has not asked for it"
    if current is None or told.version != current.version:
        return False, "was sent an older state; a newer one waits for its acknowledgement"
    if status.in_flight:
        return False, "was sent it and has not acknowledged it yet"
    if status.error:
        return False, f"rejected the last push: {status.error}"
    return True, "has acknowledged it"


_SERVED = {str(t): t for t in TypeUrl}


def _type(proxy: Proxy, status: TypeStatus, type_url: TypeUrl) -> ProxyType:
    if status.error:
        state = "REJECTED"
    elif not status.sent:
        state = "NOT SENT"
    else:
        state = "STALE" if status.in_flight or status.pending or proxy.queued else "SYNCED"
    lag = proxy.lag_ms.get(type_url)
    return ProxyType(
        type=type_url.short,
        state=state,
        sent=status.sent,
        acked=status.acked,
        subscribed=-1 if status.wildcard else status.subscribed,
        lag_ms=None if lag is None else round(lag, 1),
        error=status.error,
    )
