"""The protocol that the name of a port tells, for all platforms that name ports. Pure."""

from __future__ import annotations

from isthmus.registry.model import Protocol

_LONGEST_FIRST = sorted(Protocol, key=lambda p: -len(p.value))


def protocol_of_port_name(name: str) -> Protocol | None:
    """By Istio's convention: `grpc-web` and `grpc-web-api` are gRPC-Web, `http-api` is HTTP. None where it tells nothing."""
    low = name.lower()
    for protocol in _LONGEST_FIRST:
        if low == protocol.value or low.startswith(f"{protocol.value}-"):
            return protocol
    return None
