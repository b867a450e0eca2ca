"""`isthmus bootstrap`."""

from __future__ import annotations

import socket
import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from isthmus.cli.output import CommandError
from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import to_bootstrap, to_json, to_yaml


def register(app: App) -> None:
    """Add the command."""
    app.command(bootstrap)


def bootstrap(
    *,
    xds: str = "127.0.0.1:15010",
    node: str | None = None,
    cluster: str = "isthmus",
    admin: str = "127.0.0.1:15000",
    region: str = "",
    zone: str = "",
    sotw: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Literal["yaml", "json"], Parameter(alias="-o")] = "yaml",
) -> None:
    """Print the bootstrap of an Envoy on this machine, which takes all else from the bridge.

    Examples:
        isthmus bootstrap --xds isthmus.example.com:15010 > envoy.yaml && envoy -c envoy.yaml

    Args:
        xds: The bridge's xDS address, as this machine reaches it.
        node: The proxy's name in proxy-status; by default this machine's host name.
        cluster: The proxy's service cluster.
        admin: Where Envoy's admin page listens.
        region: Where this machine is, for Envoys that prefer near endpoints.
        zone: Likewise, within the region.
        sotw: Use the state-of-the-world variant instead of delta.
        output: As YAML or JSON.

    """
    host, port = _address("--xds", xds)
    admin_host, admin_port = _address("--admin", admin)
    message = to_bootstrap(
        node or socket.gethostname(),
        cluster,
        host,
        port,
        admin_address=admin_host,
        admin_port=admin_port,
        locality=Locality(region, zone) if region or zone else None,
        delta=not sotw,
    )
    sys.stdout.write(to_json(message) + "\n" if output == "json" else to_yaml(message))


def _address(option: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(f"{option} {address!r}: expected HOST:PORT, such as 127.0.0.1:15010", 2)
    return host.strip("[]"), int(port)
