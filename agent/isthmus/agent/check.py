"""What the types of agent.yaml cannot express. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from isthmus.agent.config import AgentConfig, ServiceConfig, Target
from isthmus.agent.dns.config import DnsConfigError
from isthmus.agent.dns.config import check as check_dns
from isthmus.agent.intercept.config import Intercept
from isthmus.registry.address import is_host_name
from isthmus.registry.explain import Step
from isthmus.registry.settings import AtError, split_address


def check(config: AgentConfig) -> None:
    """Refuse what the types cannot.

    Raises:
        AtError: with the path of it.

    """
    if not config.bridges:
        raise AtError(["discoveryAddress"], "expected host:port, or a list with at least one")
    several = not isinstance(config.discovery_address, str)
    for number, bridge in enumerate(config.bridges):
        split_address(bridge, ["discoveryAddress", *([number] if several else [])])
    tls = config.discovery_tls
    if tls and bool(tls.cert_file) != bool(tls.key_file):
        raise AtError(["discoveryTls"], "certFile and keyFile: both or none")
    for field, address in (("address", config.address), ("inboundAddress", config.inbound_address)):
        _check_ip(address, field)
    if config.locality.count("/") > 2:
        raise AtError(["locality"], f"{config.locality!r}: expected at most three levels, region/zone/sub_zone")
    if config.parent_shutdown_duration < config.drain_duration:
        raise AtError(
            ["parentShutdownDuration"],
            f"{config.parent_shutdown_duration}: expected at least drainDuration, {config.drain_duration}",
        )
    if config.connect_timeout <= 0:
        raise AtError(["connectTimeout"], "expected more than 0s")
    split_address(config.outbound.listen, ["outbound", "listen"])
    _check_services(config)
    _check_own_ports(config)
    if config.dns is not None:
        try:
            check_dns(config.dns)
        except DnsConfigError as e:
            raise AtError(["dns", *e.path], e.reason) from None


def _check_ip(text: str, field: str) -> None:
    try:
        if text:
            ipaddress.ip_address(text)
    except ValueError:
        raise AtError([field], f"{text!r}: expected an IP address such as 10.0.0.5") from None


def _check_services(config: AgentConfig) -> None:
    keys: set[tuple[str, str]] = set()
    inbound: dict[int, str] = {}
    for i, service in enumerate(config.services):
        at: list[Step] = ["services", i]
        for field, name in (("name", service.name), ("namespace", service.namespace)):
            if not is_host_name(name):
                raise AtError([*at, field], f"{name!r}: expected a name of letters, digits, dashes and dots")
        if (service.namespace, service.name) in keys:
            raise AtError([*at, "name"], f"{service.name!r} stands twice in the namespace {service.namespace}")
        keys.add((service.namespace, service.name))
        if service.metrics and not service.metrics.startswith(("http://", "https://")):
            raise AtError(
                [*at, "metrics"], f"{service.metrics!r}: expected a URL such as http://127.0.0.1:9081/metrics"
            )
        _check_ports(config, service, at, inbound)


def _check_ports(config: AgentConfig, service: ServiceConfig, at: list[Step], inbound: dict[int, str]) -> None:
    numbers: set[int] = set()
    titles: set[str] = set()
    for j, port in enumerate(service.ports):
        here: list[Step] = [*at, "ports", j]
        try:
            target = port.at()
        except AtError as e:
            raise AtError([*here, *e.path], e.reason) from None
        if port.port in numbers or port.title in titles:
            shown = f"the number {port.port}" if port.port in numbers else f"the name {port.title}"
            raise AtError(here, f"{shown} is another port's of this service; give each a name and a number of its own")
        numbers.add(port.port)
        titles.add(port.title)
        number = port.inbound_port
        if not number:
            continue
        if number in inbound:
            raise AtError(
                [*here, "inbound"], f"{number} is the proxy's port for {inbound[number]} already; choose another one"
            )
        inbound[number] = f"{service.name} {port.title}"
        own = config.inbound_address or config.address
        if config.interception_mode == "NONE" and target == Target(own, number):
            raise AtError(
                [*here, "inbound"], f"{own}:{number} is where the application listens; give the proxy another port"
            )


def _check_own_ports(config: AgentConfig) -> None:
    """The agent's and the proxy's own ports are for one purpose each."""
    seen: dict[int, str] = {}
    for field, number in _own_ports(config):
        if number and number in seen:
            raise AtError([*field.split(".")], f"{number} is {seen[number]} already; choose another one")
        seen[number] = field
    for i, service in enumerate(config.services):
        for j, port in enumerate(service.ports):
            if port.inbound_port and port.inbound_port in seen:
                reason = f"{port.inbound_port} is {seen[port.inbound_port]} already; choose another one"
                raise AtError(["services", i, "ports", j, "inbound"], reason)


def _own_ports(config: AgentConfig) -> Iterator[tuple[str, int]]:
    yield "proxyAdminPort", config.proxy_admin_port
    yield "statusPort", config.status_port
    yield "readinessPort", config.readiness_port
    yield "envoyPrometheusPort", config.envoy_prometheus_port
    if config.interception_mode != "NONE":
        section = config.intercept or Intercept()
        yield "intercept.envoyPort", section.envoy_port
        yield "intercept.inboundCapturePort", section.inbound_capture_port
    elif config.outbound.mode == "EXPLICIT":
        yield "outbound.listen", split_address(config.outbound.listen, ["outbound", "listen"])[1]
