"""`isthmus bootstrap`."""

from __future__ import annotations

import socket
import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from isthmus.cli import address
from isthmus.cli.command import command
from isthmus.cli.output import CommandError, Flag
from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import to_bootstrap, to_json, to_yaml


def bootstrap(
    *,
    xds: str = "127.0.0.1:15010",
    node: str | None = None,
    cluster: str = "isthmus",
    admin: str = "127.0.0.1:15000",
    region: str | None = None,
    zone: str | None = None,
    sotw: Flag = False,
    output: Annotated[Literal["yaml", "json"], Parameter(alias="-o")] = "yaml",
) -> None:
    """Print the bootstrap of an Envoy on this machine, which takes all else from the bridge.

    Examples:
        isthmus bootstrap > envoy.yaml && envoy -c envoy.yaml

        isthmus bootstrap --xds isthmus.example.com:15010 --region eu --zone eu-1 > envoy.yaml

    Args:
        xds: The bridge's xDS address, as this machine reaches it.
        node: The proxy's name in proxy-status; by default this machine's host name.
        cluster: The proxy's service cluster.
        admin: Where Envoy's admin page listens.
        region: Where this machine is, for Envoys that prefer near endpoints.
        zone: Likewise, within the region.
        sotw: Use the state-of-the-world variant of the protocol instead of delta.
        output: As YAML or JSON.

    """
    host, port = address.split("--xds", xds)
    admin_host, admin_port = address.split("--admin", admin)
    if node == "":
        raise CommandError("--node: expected a name, got nothing", 2)
    message = to_bootstrap(
        node or socket.gethostname(),
        cluster,
        host,
        port,
        admin_address=admin_host,
        admin_port=admin_port,
        locality=Locality(region or "", zone or "") if region or zone else None,
        delta=not sotw,
    )
    sys.stdout.write(to_json(message) + "\n" if output == "json" else to_yaml(message))


app = command(bootstrap)
