"""The bootstrap of a program whose gRPC library takes its configuration from the bridge, without a proxy.

The format is gRPC's own JSON (https://github.com/grpc/grpc/blob/master/doc/grpc_xds_bootstrap_format.md). The library reads it
from the file that GRPC_XDS_BOOTSTRAP names, or from GRPC_XDS_BOOTSTRAP_CONFIG itself.
"""

from __future__ import annotations

import json

from isthmus.registry.model import Locality
from isthmus.xds.bootstrap import ClientTLS

SERVER_LISTENER = "grpc/server?xds.resource.listening_address=%s"
"""What a gRPC server calls the listener that it asks for; `%s` is the address on which it listens."""


def to_grpc_bootstrap(
    node_id: str,
    node_cluster: str,
    xds_host: str,
    xds_port: int,
    *,
    tls: ClientTLS | None = None,
    locality: Locality | None = None,
) -> str:
    """Make a bootstrap. With `tls`, paths on the program's machine, the bridge is reached over TLS."""
    credentials: dict[str, object] = {"type": "insecure"}
    if tls is not None:
        own = {"certificate_file": tls.cert_file, "private_key_file": tls.key_file} if tls.cert_file else {}
        credentials = {"type": "tls", "config": {"ca_certificate_file": tls.ca_file, **own}}
    at = locality or Locality()
    levels = {"region": at.region, "zone": at.zone, "sub_zone": at.sub_zone}
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"[{xds_host}]:{xds_port}" if ":" in xds_host else f"{xds_host}:{xds_port}",
                "channel_creds": [credentials],
                # A service that is gone for good loses its instances as well; one that is gone by mistake is still called.
                "server_features": ["xds_v3", "ignore_resource_deletion"],
            }
        ],
        "node": {
            "id": node_id,
            "cluster": node_cluster,
            "locality": {level: name for level, name in levels.items() if name},  # Node.js refuses a node without
        },
        "server_listener_resource_name_template": SERVER_LISTENER,
    }
    return json.dumps(bootstrap, indent=2)
