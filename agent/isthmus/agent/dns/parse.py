"""Names as the bridge tells them: one `envoy.data.dns.v3.DnsTable` for each service. Pure.

Its `virtual_domains` are the names of the service: those with an address list are answered with it, and those with a service list
say which ports it has, for all names of the resource. Other kinds of endpoints are Envoy's own and say nothing here.
"""

from __future__ import annotations

from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from google.protobuf.message import DecodeError

from isthmus.agent.dns.table import Entry, Record, RecordError, read

MAX_NAMES = 1000
"""Of one service."""

Entries = tuple[tuple[bytes, Entry], ...]


def parse(body: bytes) -> Entries:
    """Read one resource.

    Raises:
        RecordError: it is no such message, or one of its names cannot be answered.

    """
    try:
        domains = DnsTable.FromString(body).virtual_domains
    except DecodeError:
        raise RecordError("it is no DnsTable") from None
    if len(domains) > MAX_NAMES:
        raise RecordError(f"it has {len(domains)} names; at most {MAX_NAMES} are answered")
    ports = {
        (service.service_name, target.port)
        for domain in domains
        for service in domain.endpoint.service_list.services
        for target in service.targets
        if service.protocol.name == "tcp" or service.protocol.number == _TCP
    }
    addresses: dict[str, tuple[str, ...]] = {}
    for domain in domains:
        if domain.endpoint.HasField("address_list"):
            addresses[domain.name] = (*addresses.get(domain.name, ()), *domain.endpoint.address_list.address)
    return tuple(read(Record(name, found, tuple(sorted(ports)))) for name, found in addresses.items())


_TCP = 6
