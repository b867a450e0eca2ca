"""From settings to a plan, and the plan in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.agent.intercept.config import Intercept, InterceptConfigError
from isthmus.agent.intercept.plan import Host, Plan, describe, owners, to_plan
from isthmus.agent.intercept.verify import captures
from isthmus.agent.interception import to_intercept
from isthmus.agent.load import parse

ROOT = Path(__file__).resolve().parents[4]


HERE = Host()


def mk_plan(host: Host = HERE, **settings: Any) -> Plan:
    return to_plan(msgspec.convert({"proxyUid": 1337, **settings}, Intercept), host)


def test_lists_are_written_in_three_ways() -> None:
    for ports in ("9090, 9080,9090", ["9080", 9090], [9080, "9090,9080"]):
        assert mk_plan(istioInboundPorts=ports).inbound == (9080, 9090)
    assert mk_plan(istioInboundPorts=9080).inbound == (9080,)
    assert mk_plan(istioInboundPorts="*").inbound is None


def test_networks_are_written_as_the_kernel_shows_them() -> None:
    """Bits behind the prefix are dropped, a single address is a network; `*` is both families."""
    plan = mk_plan(istioServiceCidr="10.1.2.3/8,FD00::1", istioServiceExcludeCidr="10.9.0.1")

    assert plan.networks == ("10.0.0.0/8", "fd00::1/128")
    assert plan.of("ipv4", plan.networks) == ("10.0.0.0/8",)
    assert plan.of("ipv6", plan.networks) == ("fd00::1/128",)
    assert plan.networks_exclude == ("10.9.0.1/32",)
    assert mk_plan(istioServiceCidr="*").networks == ("0.0.0.0/0", "::/0")


def test_users_and_groups_have_names_or_numbers() -> None:
    config = Intercept(proxy_uid="envoy,0", outbound_owner_groups="web", istio_service_cidr="*")
    assert owners(config) == (("envoy",), ("web",))

    plan = to_plan(config, Host(users={"envoy": 101}, groups={"web": 33}))

    assert (plan.proxy_uids, plan.gids, plan.uids) == ((101, 0), (33,), None)


def test_questions_for_names() -> None:
    """Those to the servers of resolv.conf, whatever the form of an address there; or all."""
    host = Host(nameservers=("10.0.0.2", "fe80::1%eth0", "nonsense"))

    assert mk_plan(host, redirectDns=True).nameservers == ("10.0.0.2/32", "fe80::1/128")
    assert mk_plan(host, captureAllDns=True).nameservers == ("0.0.0.0/0", "::/0")
    assert mk_plan(host, istioServiceCidr="*").nameservers == ()


def test_without_ipv6() -> None:
    host = Host(no_ipv6="this kernel has none")

    plan = mk_plan(host, istioServiceCidr="*")
    assert plan.families == ("ipv4",)
    assert "IPv6 is not captured: this kernel has none" in describe(plan)
    assert mk_plan(host, istioServiceCidr="*", dualStack=False).notes == ()
    assert mk_plan(istioServiceCidr="*", dualStack=False).families == ("ipv4",)
    with pytest.raises(InterceptConfigError, match="dualStack: IPv6 cannot be captured here: this kernel has none"):
        mk_plan(host, istioServiceCidr="*", dualStack=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {},
            "nothing would be captured: give inbound ports (-b), networks (-i), outbound ports (-q) or --redirect-dns",
        ),
        ({"proxyUid": ""}, "proxyUid: expected the user as which Envoy runs: its connections must not return"),
        ({"proxyUid": "envoy"}, "proxyUid: there is no user 'envoy' on this host"),
        ({"proxyGid": "envoy"}, "proxyGid: there is no group 'envoy' on this host"),
        ({"proxyUid": "*"}, "proxyUid: there is no user '*' on this host"),
        ({"istioInboundPorts": "http"}, "istioInboundPorts: expected ports from 1 to 65535, got 'http'"),
        ({"istioInboundPorts": "9080,*"}, "istioInboundPorts: expected ports from 1 to 65535, got '*'"),
        ({"istioLocalExcludePorts": 70000}, "istioLocalExcludePorts: expected ports from 1 to 65535, got '70000'"),
        ({"istioInboundPorts": 22}, "istioInboundPorts: 22 is never captured, it is SSH's, the agent's or Envoy's own"),
        ({"istioInboundPorts": 15021}, "istioInboundPorts: 15021 is never captured"),
        ({"istioServiceCidr": "example.com"}, "istioServiceCidr: expected networks such as 10.0.0.0/8 or *, got"),
        ({"istioServiceExcludeCidr": "*"}, "istioServiceExcludeCidr: expected networks such as 10.0.0.0/8, got '*'"),
        ({"kubeVirtInterfaces": 'a"; flush'}, "kubeVirtInterfaces: expected interfaces such as docker0 or veth+, got"),
        ({"istioExcludeInterfaces": "lo"}, "istioExcludeInterfaces: expected interfaces such as docker0 or veth+"),
        ({"envoyPort": 0}, "envoyPort: expected ports from 1 to 65535, got 0"),
        ({"istioInboundTproxyMark": 0}, "istioInboundTproxyMark: expected a number from 1 to 4294967294, got 0"),
        ({"istioInboundTproxyRouteTable": 255}, "istioInboundTproxyRouteTable: expected the number of a table of our"),
        ({"redirectDns": True}, "redirectDns: /etc/resolv.conf names no server: use --capture-all-dns"),
        (
            {"istioOutboundPorts": ",".join(["80"] * 1001)},
            "istioOutboundPorts: expected at most 1000 entries, got 1001",
        ),
    ],
)
def test_what_cannot_be_used(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InterceptConfigError, match=re.escape(reason)):
        mk_plan(**settings)


def test_the_plan_in_sentences() -> None:
    plan = mk_plan(
        istioInboundInterceptionMode="TPROXY",
        istioInboundPorts="*",
        istioLocalExcludePorts=2222,
        istioServiceCidr="*",
        istioServiceExcludeCidr="10.9.0.0/16",
        istioLocalOutboundPortsExclude="25",
        outboundOwnerUsers="1000",
        kubeVirtInterfaces="docker0",
        captureAllDns=True,
    )

    assert describe(plan) == [
        "inbound ports * -> 15006 (TPROXY, the caller's address stays); never 22,15000-15099,2222",
        "outbound to * -> 15001",
        "not outbound to 10.9.0.0/16, ports 25",
        "DNS to * -> 15053",
        "outbound and DNS only of user 1000",
        "not of user 1337; not on loopback but to 127.64.0.0/10; no connection that exists already",
        "coming in on docker0: as outbound",
        "families: ipv4,ipv6",
    ]


def test_which_destinations_are_captured() -> None:
    """As the rules decide, for the probe."""
    plan = mk_plan(
        istioServiceCidr="10.0.0.0/8",
        istioServiceExcludeCidr="10.9.0.0/16",
        istioOutboundPorts="443",
        istioLocalOutboundPortsExclude="25",
    )

    assert captures(plan, "10.1.0.1", 80)
    assert captures(plan, "192.0.2.1", 443)
    assert not captures(plan, "192.0.2.1", 80)
    assert not captures(plan, "10.1.0.1", 25)
    assert not captures(plan, "10.9.0.1", 443)


def test_what_follows_from_the_rest_of_agent_yaml() -> None:
    """The mode, ports of services that go through the proxy, everything outbound, and where DNS listens."""
    text = b"""
    interceptionMode: TPROXY
    dns: {listen: ["127.0.0.1:5353"]}
    services:
    - {name: a, ports: [{name: a, port: 9080}, {name: b, port: 9090, inbound: 19090}, {name: direct, port: 9070, inbound: 0}]}
    """

    found = to_intercept(parse(text, ROOT / "agent.yaml", {}, "vm-1"))

    assert found.istio_inbound_interception_mode == "TPROXY"
    assert (found.istio_inbound_ports, found.istio_service_cidr) == ((9080, 19090), "*")
    assert found.dns_capture_port == 5353


def test_what_agent_yaml_says_counts() -> None:
    text = b"""
    interceptionMode: REDIRECT
    intercept: {istioInboundPorts: "", istioOutboundPorts: 443}
    services: [{name: a, ports: [{port: 9080}]}]
    """

    found = to_intercept(parse(text, ROOT / "agent.yaml", {}, "vm-1"))

    assert (found.istio_inbound_ports, found.istio_service_cidr, found.istio_outbound_ports) == ("", None, 443)


def test_every_key_is_described() -> None:
    """docs/intercept.md has each, with its flag and its default."""
    page = (ROOT / "docs" / "intercept.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\S+)` \| (.*?) \|", page, re.MULTILINE)
    described = {key: default for key, _, default in rows}

    fields = {field.encode_name: field for field in msgspec.structs.fields(Intercept)}
    assert list(described.keys() ^ fields.keys()) == []
    for key, shown in described.items():
        default = fields[key].default
        if default not in ("", None):
            written = shown.partition(";")[0].strip("`")
            assert written == (str(default).lower() if isinstance(default, bool) else str(default)), key
