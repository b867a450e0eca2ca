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
from isthmus.xds.bootstrap import ClientTLS, to_bootstrap, to_json, to_yaml
from isthmus.xds.grpc_bootstrap import to_grpc_bootstrap

ADMIN = "127.0.0.1:15000"


def bootstrap(
    *,
    xds: str = "127.0.0.1:15010",
    node: str | None = None,
    cluster: str = "isthmus",
    admin: str = ADMIN,
    region: str | None = None,
    zone: str | None = None,
    sotw: Flag = False,
    grpc: Flag = False,
    ca: Annotated[str | None, Parameter(name="--ca")] = None,
    cert: str | None = None,
    key: str | None = None,
    output: Annotated[Literal["yaml", "json"] | None, Parameter(alias="-o")] = None,
) -> None:
    """Print the bootstrap of an Envoy on this machine, or of a gRPC program, which takes all else from the bridge.

    Examples:
        isthmus bootstrap > envoy.yaml && envoy -c envoy.yaml

        isthmus bootstrap --xds isthmus.example.com:15010 --region eu --zone eu-1 > envoy.yaml

        isthmus bootstrap --xds isthmus.example.com:15012 --ca /etc/isthmus/ca.pem > envoy.yaml

        isthmus bootstrap --grpc > grpc.json && GRPC_XDS_BOOTSTRAP=grpc.json ./client

    Args:
        xds: The bridge's xDS address, as this machine reaches it.
        node: The proxy's or program's name in proxy-status; by default this machine's host name.
        cluster: The group of proxies or programs to which it belongs.
        admin: Where Envoy's admin page listens.
        region: Where this machine is, for Envoys that prefer near endpoints.
        zone: Likewise, within the region.
        sotw: Use the state-of-the-world variant of the protocol instead of delta.
        grpc: For a program whose gRPC library follows the mesh itself, without an Envoy.
        ca: Reach the bridge over TLS, and trust the certificates in this file on the proxy's or program's machine.
        cert: With --ca: its own certificate, a file there, where the bridge wants one.
        key: With --cert: the key of that certificate.
        output: As YAML or JSON; YAML by default, and JSON with --grpc, which knows nothing else.

    """
    host, port = address.split("--xds", xds)
    admin_host, admin_port = address.split("--admin", admin)
    if node == "":
        raise CommandError("--node: expected a name, got nothing", 2)
    name = node or socket.gethostname()
    locality = Locality(region or "", zone or "") if region or zone else None
    if ca is None and (cert or key):
        raise CommandError("--cert and --key are for TLS: add --ca, the file with the authorities to trust", 2)
    if bool(cert) != bool(key):
        raise CommandError("--cert and --key go together: give both, or neither", 2)
    tls = ClientTLS(ca, cert or "", key or "") if ca else None
    if grpc:
        given = {"--admin": admin != ADMIN, "--sotw": sotw, "--output yaml": output == "yaml"}
        for words in [words for words, is_given in given.items() if is_given]:
            raise CommandError(f"{words} is for an Envoy's bootstrap: leave it out with --grpc", 2)
        sys.stdout.write(to_grpc_bootstrap(name, cluster, host, port, tls=tls, locality=locality) + "\n")
        return
    message = to_bootstrap(
        name,
        cluster,
        host,
        port,
        admin_address=admin_host,
        admin_port=admin_port,
        locality=locality,
        delta=not sotw,
        tls=tls,
    )
    sys.stdout.write(to_json(message) + "\n" if output == "json" else to_yaml(message))


app = command(bootstrap)
