"""Make before break, as a table: in which order types are sent on one stream, and what waits for what.

A proxy must never be told to use what it does not have yet, nor lose what it still uses. So clusters go before the endpoints that
warm them, these before the listeners and routes that use them, and withdrawals go the other way round
(xDS protocol, "Eventual consistency considerations"). A proxy handles one stream in order, so being *sent* earlier is enough,
with two exceptions that need the proxy's word: a new cluster may be used once it is warm, and a cluster may go once the routes
without it are in place. Endpoints never wait: the proxy withholds its acknowledgement of a cluster until they have come.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from isthmus.xds.resource import TypeUrl

BOUND = 5.0
"""Seconds after which a wait is over whatever the proxy says: late configuration beats none."""


class Wait(enum.Enum):
    """What another type must have reached on the same stream."""

    WARM = "warm"
    """No addition is unsent or unacknowledged. Envoy acknowledges clusters when all of them are warm."""
    SENT = "sent"
    """Nothing is left to send."""
    ACKED = "acked"
    """Nothing is left to send, and what was sent has been accepted."""


class Turn(msgspec.Struct, frozen=True):
    """One type's place in the order: what all of its responses wait for, and what withdrawals wait for besides."""

    type_url: TypeUrl
    after: Mapping[TypeUrl, Wait] = {}
    withdrawals_after: Mapping[TypeUrl, Wait] = {}


TURNS = (
    # Envoy reads its runtime before it asks for anything else.
    Turn(TypeUrl.RUNTIME),
    Turn(
        TypeUrl.CLUSTER,
        withdrawals_after={
            TypeUrl.LISTENER: Wait.ACKED,
            TypeUrl.ROUTE: Wait.ACKED,
            TypeUrl.VIRTUAL_HOST: Wait.ACKED,
            TypeUrl.EXTENSION: Wait.ACKED,
        },
    ),
    Turn(TypeUrl.ENDPOINT, withdrawals_after={TypeUrl.CLUSTER: Wait.SENT}),
    # Clusters and listeners warm with their secrets as clusters do with their endpoints: they never wait.
    Turn(TypeUrl.SECRET, withdrawals_after={TypeUrl.CLUSTER: Wait.SENT, TypeUrl.LISTENER: Wait.SENT}),
    # The configuration of a filter may name clusters, and a listener warms with it.
    Turn(TypeUrl.EXTENSION, after={TypeUrl.CLUSTER: Wait.WARM}, withdrawals_after={TypeUrl.LISTENER: Wait.SENT}),
    Turn(TypeUrl.LISTENER, after={TypeUrl.CLUSTER: Wait.WARM}),
    Turn(TypeUrl.SCOPED_ROUTE, after={TypeUrl.CLUSTER: Wait.WARM}, withdrawals_after={TypeUrl.LISTENER: Wait.SENT}),
    Turn(
        TypeUrl.ROUTE,
        after={TypeUrl.CLUSTER: Wait.WARM},
        withdrawals_after={TypeUrl.LISTENER: Wait.SENT, TypeUrl.SCOPED_ROUTE: Wait.SENT},
    ),
    Turn(TypeUrl.VIRTUAL_HOST, after={TypeUrl.CLUSTER: Wait.WARM}, withdrawals_after={TypeUrl.ROUTE: Wait.SENT}),
    # On the agent's stream, where there is nothing else.
    Turn(TypeUrl.DNS_TABLE),
)
"""In the order of sending. A type that the client has not asked for holds nobody up."""

EXPECTED = frozenset({TypeUrl.LISTENER, TypeUrl.ROUTE})
"""What a client that comes back and asks for clusters is sure to ask for soon: withdrawals wait for that, within the bound.

The other types hold nobody up until they are asked for.
"""

RENEWS: Mapping[TypeUrl, TypeUrl] = {TypeUrl.CLUSTER: TypeUrl.ENDPOINT}
"""A resource that is sent anew takes the one of the same name with it, even if that has not changed.

An Envoy that replaces a cluster waits for its endpoints to be sent again, 15 s long if they are not (envoyproxy/envoy#13009).
"""
