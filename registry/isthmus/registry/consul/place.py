"""Where an instance is called, and where it runs. Pure.

Consul knows several addresses of one instance. From within its datacenter it is called at `Service.Address`, else at the address
of its node; from elsewhere at the one tagged `wan`, of the service or else of the node, as Consul's own `translate_wan_addrs`
has it (https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file/general#translate_wan_addrs). Those tagged
`virtual` and `consul-virtual` are no instance's address: Consul's own mesh makes them up for the service.
"""

from __future__ import annotations

from isthmus.registry.address import parse_address, parse_socket_path
from isthmus.registry.consul.answers import Entry
from isthmus.registry.model import Locality

LAN, WAN = ("lan", "lan_ipv4", "lan_ipv6"), ("wan", "wan_ipv4", "wan_ipv6")
"""Tags of addresses, in the order in which one is chosen."""


def address_of(entry: Entry, *, remote: bool) -> tuple[str, int]:
    """Where an instance is called, and the port that goes with that address: 0 where the instance's own ports hold.

    `remote` is whether it is called from another datacenter or cluster.

    Raises:
        ValueError: it cannot be called; with its reason.

    """
    service, node = entry.service, entry.node
    if service.socket_path:
        try:
            return parse_socket_path(service.socket_path), 0
        except ValueError as e:
            raise ValueError(f"SocketPath: {e}") from None
    tagged = service.tagged_addresses or {}
    for tag in WAN if remote else ():
        if tag in tagged and tagged[tag].address:
            return parse_address(tagged[tag].address), tagged[tag].port
    if service.address:
        return parse_address(service.address), 0
    by_node = node.tagged_addresses or {}
    address = next((by_node[t] for t in WAN if by_node.get(t)), "") if remote else ""
    address = address or node.address or next((by_node[t] for t in LAN if by_node.get(t)), "")
    if not address:
        raise ValueError("neither the service nor its node has an address")
    return parse_address(address), 0


def locality_of(entry: Entry) -> Locality:
    """Region and zone, from the nearest statement about them; the datacenter is the region where none is said."""
    meta = entry.node.meta or {}
    for said in (entry.service.locality, entry.node.locality):
        if said is not None and (said.region or said.zone):
            return Locality(said.region or entry.node.datacenter, said.zone)
    return Locality(meta.get("region") or entry.node.datacenter, meta.get("zone", ""))
