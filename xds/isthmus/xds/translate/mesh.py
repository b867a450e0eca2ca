"""What translation starts from: the catalog and the settings of the mesh."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Catalog, ServiceKey


class MeshSettings(msgspec.Struct, frozen=True):
    """What holds for the whole mesh.

    `domain` ends the mesh's own host names, `<service>.<namespace>.<domain>`. HTTP leaves through one listener on
    `outbound_address:outbound_port` of every proxy; of a proxy that wants addresses also through one for each port on
    `shared_address`, which is what the host names of services resolve to that have no virtual IP.
    """

    domain: str = "mesh"
    outbound_address: str = "127.0.0.1"
    outbound_port: int = 15001
    shared_address: str = "127.64.0.1"


class Mesh(msgspec.Struct, frozen=True):
    """The input of `translate`. `virtual_ips` has the address of each service with a port that is not HTTP; others may
    have one."""

    catalog: Catalog
    settings: MeshSettings = MeshSettings()
    virtual_ips: Mapping[ServiceKey, str] = {}
