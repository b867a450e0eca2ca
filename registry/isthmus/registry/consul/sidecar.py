"""Consul's own sidecar proxies, paired with the instances that they stand before. Pure.

A `connect-proxy` is registered as a service of its own, mostly `NAME-sidecar-proxy`, and is none: it is another way, with mutual
TLS, to the instance beside it. So that instance says where its sidecar listens (`Instance.provenance["sidecar"]`), and goes on
being called at its own address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.registry.consul.answers import Entry
from isthmus.registry.consul.place import address_of
from isthmus.registry.model import Instance, Service

KIND = "connect-proxy"
SIDECAR = "sidecar"
"""Key of the provenance."""


class Sidecar(msgspec.Struct, frozen=True):
    """One proxy: the service and, unless empty, the service id on the same node before which it stands, and where it listens."""

    node: str
    destination: str
    destination_id: str
    at: str


def parse_sidecar(entry: Entry, *, remote: bool) -> Sidecar:
    """A proxy's entry.

    Raises:
        ValueError: it stands before nobody, or cannot be called; with its reason.

    """
    proxy = entry.service.proxy
    if proxy is None or not proxy.destination:
        raise ValueError("a sidecar proxy without a DestinationServiceName")
    address, port = address_of(entry, remote=remote)
    if address.startswith("unix://"):
        return Sidecar(entry.node.node, proxy.destination, proxy.destination_id, address)
    port = port or entry.service.port
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} of a sidecar proxy cannot be called: expected 1 to 65535")
    host = f"[{address}]" if ":" in address else address
    return Sidecar(entry.node.node, proxy.destination, proxy.destination_id, f"{host}:{port}")


def paired(service: Service, sidecars: Iterable[Sidecar]) -> Service:
    """The service, each of whose instances says where the sidecar before it is: by its service id, else by its node."""
    by_id: dict[tuple[str, str], str] = {}
    by_node: dict[str, str] = {}
    for sidecar in sorted(sidecars, key=lambda s: s.at, reverse=True):  # of several the first address holds
        if sidecar.destination_id:
            by_id[sidecar.node, sidecar.destination_id] = sidecar.at
        else:
            by_node[sidecar.node] = sidecar.at
    if not by_id and not by_node:
        return service
    instances = tuple(_beside(i, by_id, by_node) for i in service.instances)
    return msgspec.structs.replace(service, instances=instances)


def _beside(instance: Instance, by_id: Mapping[tuple[str, str], str], by_node: Mapping[str, str]) -> Instance:
    said = instance.provenance
    at = by_id.get((said["node"], said.get("service_id", ""))) or by_node.get(said["node"])
    return msgspec.structs.replace(instance, provenance={**said, SIDECAR: at}) if at else instance
