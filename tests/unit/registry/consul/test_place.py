"""Where an instance of Consul is called: which of its addresses, from within its datacenter and from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.registry.consul.answers import parse_listing
from isthmus.registry.consul.parse import Rules, parse_service
from isthmus.registry.model import Instance, Origin

HERE, ELSEWHERE = Rules(), Rules(remote=True)


def the_instance(rules: Rules, service: dict[str, Any], node: dict[str, Any] | None = None) -> Instance:
    entry = {
        "Node": {"Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1"} | (node or {}),
        "Service": {"ID": "web", "Service": "web", "Port": 8080} | service,
    }
    parsed = parse_service(Origin("dc1", "consul"), "web", parse_listing(json.dumps([entry]).encode()), rules)
    assert parsed.service is not None, parsed.quarantined
    (instance,) = parsed.service.instances
    return instance


def tagged(**addresses: tuple[str, int]) -> dict[str, Any]:
    return {"TaggedAddresses": {tag: {"Address": a, "Port": p} for tag, (a, p) in addresses.items()}}


NODE_WAN = {"TaggedAddresses": {"lan": "10.9.9.9", "wan": "203.0.113.9"}}


@pytest.mark.parametrize(
    ("service", "node", "here", "elsewhere"),
    [
        ({}, {}, "10.9.9.9", "10.9.9.9"),
        ({"Address": "10.0.0.1"}, {}, "10.0.0.1", "10.0.0.1"),
        ({}, NODE_WAN, "10.9.9.9", "203.0.113.9"),
        ({"Address": "10.0.0.1"}, NODE_WAN, "10.0.0.1", "10.0.0.1"),
        ({"Address": "10.0.0.1"} | tagged(wan=("198.51.100.1", 0)), NODE_WAN, "10.0.0.1", "198.51.100.1"),
        ({"Address": "10.0.0.1"} | tagged(wan_ipv4=("198.51.100.1", 0)), {}, "10.0.0.1", "198.51.100.1"),
        ({"Address": "10.0.0.1"} | tagged(wan_ipv6=("2001:DB8::1", 0)), {}, "10.0.0.1", "2001:db8::1"),
        ({"Address": "10.0.0.1"} | tagged(wan=("edge.example.com", 0)), {}, "10.0.0.1", "edge.example.com"),
        ({"Address": "10.0.0.1"} | tagged(lan=("10.5.5.5", 1), lan_ipv4=("10.6.6.6", 1)), {}, "10.0.0.1", "10.0.0.1"),
        (tagged(virtual=("240.0.0.1", 80)) | tagged(virtual=("240.0.0.2", 80)), {}, "10.9.9.9", "10.9.9.9"),
        ({}, {"Address": "", "TaggedAddresses": {"lan_ipv6": "2001:db8::9"}}, "2001:db8::9", "2001:db8::9"),
        ({"TaggedAddresses": None}, {"TaggedAddresses": None}, "10.9.9.9", "10.9.9.9"),
        (
            {"SocketPath": "/run/web.sock", "Port": 0} | tagged(wan=("198.51.100.1", 1)),
            {},
            *["unix:///run/web.sock"] * 2,
        ),
    ],
)
def test_the_address_is_that_of_the_datacenter_from_which_it_is_called(
    service: dict[str, Any], node: dict[str, Any], here: str, elsewhere: str
) -> None:
    """As Consul itself translates addresses; one that its mesh has made up for the whole service is nobody's."""
    assert the_instance(HERE, service, node).address == here
    assert the_instance(ELSEWHERE, service, node).address == elsewhere


def test_the_port_is_the_one_that_goes_with_the_address() -> None:
    service = tagged(wan=("198.51.100.1", 443))
    assert dict(the_instance(HERE, service).ports) == {"http": 8080}
    assert dict(the_instance(ELSEWHERE, service).ports) == {"http": 443}
