"""What agent.yaml captures: its section `intercept`, and where that says nothing, what follows from the rest of the file."""

from __future__ import annotations

import msgspec

from isthmus.agent.config import AgentConfig
from isthmus.agent.intercept.config import Intercept
from isthmus.registry.settings import split_address


def to_intercept(config: AgentConfig) -> Intercept:
    """The mode, the services' ports, all destinations, and the port of the agent's DNS."""
    section = config.intercept or Intercept()
    if config.interception_mode != "NONE":
        section = msgspec.structs.replace(section, istio_inbound_interception_mode=config.interception_mode)
    if section.istio_inbound_ports is None:
        ports = sorted({port.inbound_port for service in config.services for port in service.ports} - {0})
        section = msgspec.structs.replace(section, istio_inbound_ports=tuple(ports))
    if section.istio_service_cidr is None and section.istio_outbound_ports == "":
        section = msgspec.structs.replace(section, istio_service_cidr="*")
    if config.dns and config.dns.listen:
        _, port = split_address(config.dns.listen[0], ["dns", "listen", 0])
        section = msgspec.structs.replace(section, dns_capture_port=port)
    return section
