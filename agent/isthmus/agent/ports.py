"""Whether an Envoy could listen where its bootstrap says: it would end, where a port is taken, and not say it in one sentence."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from isthmus.agent.envoy import EnvoyError


def check_ports(bootstrap: str, before: str) -> None:
    """Look whether the ports of a bootstrap can be listened on, except for those of the one before, which is handed on.

    Raises:
        EnvoyError: one is taken, or is not this machine's to take.

    """
    handed_on = set(_listening(before))
    for name, host, port in _listening(bootstrap):
        if (name, host, port) in handed_on or (host, port) in {(h, p) for _, h, p in handed_on}:
            continue
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                s.bind((host, port))
            except OSError as e:
                raise EnvoyError(f"{name} cannot listen on {host} port {port}: {e.strerror}") from None


def _listening(bootstrap: str) -> Iterator[tuple[str, str, int]]:
    """Where an Envoy of that bootstrap listens by itself: name, address, port."""
    document: dict[str, Any] = json.loads(bootstrap) if bootstrap else {}
    admin = document.get("admin", {}).get("address", {}).get("socket_address")
    if admin:
        yield "Envoy's admin page", admin["address"], admin["port_value"]
    for listener in document.get("static_resources", {}).get("listeners", ()):
        if listener.get("bind_to_port") is False:
            continue
        addresses: Sequence[dict[str, Any]] = [
            listener["address"],
            *(a["address"] for a in listener.get("additional_addresses", ())),
        ]
        for address in addresses:
            at = address["socket_address"]
            yield f"the proxy's listener {listener['name']}", at["address"], at["port_value"]
