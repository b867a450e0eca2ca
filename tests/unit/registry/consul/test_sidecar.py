"""Consul's sidecar proxies: never services, and known to the instances that they stand before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.registry.consul.answers import Listing, parse_listing
from isthmus.registry.consul.known import Known
from isthmus.registry.consul.parse import Rules, parse_service
from isthmus.registry.model import Origin, ServiceKey

ORIGIN = Origin("dc1", "consul")
WEB = ServiceKey("default", "web")


def mk_listing(*entries: dict[str, Any]) -> Listing:
    return parse_listing(json.dumps(entries).encode())


def mk_entry(name: str, id_: str, node: str = "n1", **service: Any) -> dict[str, Any]:
    entry = {"ID": id_, "Service": name, "Port": 80, "Address": "10.0.0.1"} | service
    return {"Node": {"Node": node, "Address": "10.0.0.9"}, "Service": entry}


def mk_proxy(before: str, port: int = 21000, node: str = "n1", **service: Any) -> dict[str, Any]:
    proxy = {"DestinationServiceName": "web", "DestinationServiceID": before}
    more = {"Kind": "connect-proxy", "Port": port, "Proxy": proxy} | service
    return mk_entry("web-sidecar-proxy", f"{before}-sidecar-proxy", node, **more)


def sidecars(known: Known) -> dict[str, str]:
    """Where the sidecar of each instance of web is."""
    service = known.take().services[WEB]
    return {i.id: i.provenance["sidecar"] for i in service.instances if "sidecar" in i.provenance}


def mk_known(*proxies: dict[str, Any]) -> Known:
    """Web has an instance web-1 on each of two nodes; the proxies are read before or after it."""
    known = Known(ORIGIN, Rules())
    known.heard_list({"web": frozenset(), "web-sidecar-proxy": frozenset()}, 10, False)
    web = mk_listing(mk_entry("web", "web-1"), mk_entry("web", "web-1", "n2"))
    known.heard_service("web", web, 11, False, 1)
    known.heard_service("web-sidecar-proxy", mk_listing(*proxies), 12, False, 1)
    return known


def test_a_proxy_is_paired_with_the_instance_of_its_id_on_its_node() -> None:
    known = mk_known(mk_proxy("web-1", node="n2"))
    assert sidecars(known) == {"n2/web-1": "10.0.0.1:21000"}
    assert set(known.take().services) == {WEB}


def test_a_proxy_that_names_no_instance_stands_before_all_on_its_node() -> None:
    assert sidecars(mk_known(mk_proxy("", node="n1"))) == {"n1/web-1": "10.0.0.1:21000"}


@pytest.mark.parametrize("proxy", [mk_proxy("web-2"), mk_proxy("web-1", node="n3")])
def test_a_proxy_of_nobody_here_changes_nothing(proxy: dict[str, Any]) -> None:
    assert sidecars(mk_known(proxy)) == {}


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"Address": ""}, "10.0.0.9:21000"),
        ({"Address": "2001:db8::1"}, "[2001:db8::1]:21000"),
        ({"Port": 0, "SocketPath": "/run/proxy.sock"}, "unix:///run/proxy.sock"),
    ],
)
def test_a_proxy_is_where_any_instance_would_be(fields: dict[str, Any], at: str) -> None:
    assert sidecars(mk_known(mk_proxy("web-1", **fields))) == {"n1/web-1": at}


def test_a_proxy_that_moves_or_goes_is_a_change_of_the_service_before_which_it_stands() -> None:
    known = mk_known(mk_proxy("web-1"))
    assert sidecars(known) == {"n1/web-1": "10.0.0.1:21000"}
    known.heard_service("web-sidecar-proxy", mk_listing(mk_proxy("web-1", 21001)), 13, False, 2)
    moved = known.take()
    assert moved.changed == frozenset({WEB})
    assert moved.services[WEB].instances[0].provenance["sidecar"] == "10.0.0.1:21001"
    known.heard_service("web-sidecar-proxy", mk_listing(mk_proxy("web-1", 21001)), 14, False, 3)
    assert not known.news
    known.heard_list({"web": frozenset()}, 15, False)
    assert known.take().changed == frozenset({WEB})
    assert sidecars(known) == {}


def test_a_service_that_comes_after_its_proxy_and_goes_before_it_is_paired_all_the_same() -> None:
    known = mk_known(mk_proxy("web-1"))
    known.heard_service("web", mk_listing(), 13, False, 2)
    assert known.take().services == {}
    known.heard_service("web", mk_listing(mk_entry("web", "web-1", Address="10.0.0.2")), 14, False, 3)
    assert sidecars(known) == {"n1/web-1": "10.0.0.1:21000"}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"Proxy": None}, "DestinationServiceName"),
        ({"Proxy": {"DestinationServiceName": ""}}, "DestinationServiceName"),
        ({"Port": 0}, "port 0"),
        ({"Address": "10.0.0.300"}, "10.0.0.300"),
    ],
)
def test_a_proxy_that_is_no_use_is_quarantined(fields: dict[str, Any], word: str) -> None:
    parsed = parse_service(ORIGIN, "web-sidecar-proxy", mk_listing(mk_proxy("web-1", **fields)), Rules())
    (quarantined,) = parsed.quarantined
    assert (parsed.service, parsed.sidecars) == (None, frozenset())
    assert word in quarantined.reason
