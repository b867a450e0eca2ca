from __future__ import annotations

import pytest

from isthmus.xds.group import Kind, Outbound, ProxyGroup, group_of


@pytest.mark.parametrize(
    ("said", "outbound"),
    [
        ("", Outbound.LISTENER),
        ("ADDRESSES", Outbound.ADDRESSES),
        ("CAPTURED", Outbound.CAPTURED),
        ("EXPLICIT", Outbound.EXPLICIT),
        ("NONE", Outbound.NONE),
        ("addresses", Outbound.LISTENER),
        ("LISTENER", Outbound.LISTENER),
    ],
)
def test_an_envoys_listeners_follow_from_its_metadata(said: str, outbound: Outbound) -> None:
    assert group_of("envoy", said) == ProxyGroup(Kind.ENVOY, outbound)


@pytest.mark.parametrize(("agent", "kind"), [("gRPC C-core", Kind.GRPC), ("isthmus-agent", Kind.AGENT)])
def test_who_is_no_envoy_has_no_listeners_to_choose(agent: str, kind: Kind) -> None:
    """One program is of one group, whatever its metadata says."""
    assert group_of(agent, "CAPTURED") == group_of(agent) == ProxyGroup(kind)
