"""The agent's bootstrap with interception: what takes captured connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.listener.v3.listener_pb2 import Listener

from isthmus.agent.bootstrap import to_agent_bootstrap
from isthmus.agent.dns.config import Address, DnsConfig
from isthmus.agent.load import parse
from isthmus.agent.names import resolvers

_SERVICES = "services: [{name: reviews, ports: [{name: http, port: 9080}, {name: tcp, port: 9070}]}]"


def bootstrap(text: str, *, ipv6: bool = True) -> Bootstrap:
    config = parse(f"{_SERVICES}\n{text}".encode(), Path("/etc/isthmus/agent.yaml"), {}, "vm-1")
    return to_agent_bootstrap(config, "10.0.0.5", ipv6=ipv6, version="test")


def listeners(made: Bootstrap) -> dict[str, Listener]:
    return {listener.name: listener for listener in made.static_resources.listeners}


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_captured_calls_that_come_in_never_reach_a_listener_of_calls_that_leave(mode: str) -> None:
    """The bridge has listeners of the same ports for other services, and Envoy takes no two of one address."""
    found = listeners(bootstrap(f"interceptionMode: {mode}"))

    assert found.keys() == {"virtualInbound", "virtualOutbound", "envoy_prometheus"}
    inbound = found["virtualInbound"]
    assert not inbound.use_original_dst.value
    assert inbound.listener_filters[0].name == "envoy.filters.listener.original_dst"
    chains = {chain.filter_chain_match.destination_port.value: chain.name for chain in inbound.filter_chains}
    assert chains == {15006: "circle", 9080: "inbound_9080", 9070: "inbound_9070"}
    assert b"InboundPassthroughCluster" in inbound.default_filter_chain.filters[0].typed_config.value
    assert found["virtualOutbound"].use_original_dst.value


def test_with_tproxy_the_caller_keeps_its_address() -> None:
    inbound = listeners(bootstrap("interceptionMode: TPROXY"))["virtualInbound"]

    assert inbound.transparent.value
    assert [f.name.rpartition(".")[2] for f in inbound.listener_filters] == ["original_dst", "original_src"]


@pytest.mark.parametrize(("ipv6", "further"), [(True, ["::"]), (False, [])])
def test_ipv6_is_taken_where_there_is_some(ipv6: bool, further: list[str]) -> None:
    for name, listener in listeners(bootstrap("interceptionMode: REDIRECT", ipv6=ipv6)).items():
        if name.startswith("virtual"):
            assert [a.address.socket_address.address for a in listener.additional_addresses] == further


def test_envoy_asks_the_servers_behind_the_agents_dns() -> None:
    """Which are the machine's, where there is no such DNS."""
    section = DnsConfig(upstream=("192.0.2.1", "127.0.0.1:15053", "[2001:db8::1]:5353"))

    assert resolvers(section) == (Address("192.0.2.1", 53), Address("2001:db8::1", 5353)), "and not the agent's itself"
    assert resolvers(None) == ()
