"""Traefik's tags, as far as they say how to reach the instance. Pure.

`traefik.http.services.NAME.loadbalancer.server.port|scheme|weight` and `traefik.tcp.services.NAME.loadbalancer.server.port|tls`,
in letters of any case. The routers, their rules and middlewares are not read, nor is UDP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from isthmus.registry.conventions.said import MorePort, Sheet, clip, port_name
from isthmus.registry.model import Protocol

_KEY = re.compile(r"traefik\.(?P<layer>http|tcp)\.(?P<kind>routers|services)\.(?P<name>[^.]+)\.(?P<option>.+)")
_SERVER = "loadbalancer.server."
_SCHEMES: Mapping[str, Protocol] = {"http": Protocol.HTTP, "https": Protocol.HTTPS, "h2c": Protocol.HTTP2}


def traefik(sheet: Sheet) -> None:
    """The server of the one service that Traefik makes of the instance; of several, the others are further ports."""
    layers: set[str] = set()
    servers: dict[tuple[str, str], dict[str, str]] = {}
    for tag in sheet.tags:
        key, _, value = tag.partition("=")
        if found := _KEY.fullmatch(key.lower()):
            layers.add(found["layer"])
            if found["kind"] == "services":
                options = servers.setdefault((found["layer"], found["name"]), {})
                if found["option"].startswith(_SERVER):
                    options[found["option"].removeprefix(_SERVER)] = value
    read = {name: _server(sheet, name, options) for name, options in sorted(servers.items())}
    # Traefik reaches a service without a port, or with the registered one, there: that is the service's first port.
    first = next((name for name, (number, _) in read.items() if number in (0, sheet.port)), next(iter(read), None))
    for name, (number, protocol) in read.items():
        if name == first:
            sheet.own_port = sheet.own_port or (number if number != sheet.port else 0)
            sheet.says_protocol(protocol)
            if "weight" in servers[name]:
                sheet.says_weight(f"tag weight of Traefik's service {name[1]}", servers[name]["weight"])
        elif number and number != (sheet.own_port or sheet.port):
            sheet.more.append(MorePort(port_name(protocol, name[1]), number, protocol))
    if not read and layers:
        sheet.says_protocol(Protocol.HTTP if "http" in layers else Protocol.TCP)


def _server(sheet: Sheet, name: tuple[str, str], options: Mapping[str, str]) -> tuple[int, Protocol]:
    """Port, 0 for the registered one, and protocol."""
    layer, service = name
    about = f"Traefik's service {service}"
    number = sheet.port_in(f"tag port of {about}", options["port"]) if "port" in options else 0
    if layer == "tcp":
        return number, Protocol.TLS if options.get("tls", "").lower() == "true" else Protocol.TCP
    scheme = options.get("scheme", "http").lower()
    if scheme not in _SCHEMES:
        accepted = ", ".join(_SCHEMES)
        sheet.remark(f"tag scheme of {about}", f"{clip(scheme)!r} is none of {accepted}; taken for http")
    return number, _SCHEMES.get(scheme, Protocol.HTTP)
