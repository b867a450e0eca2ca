"""The names of services, for the agent's DNS: a table for each service, named like it.

A table has the service's host names with the address that they resolve to, and under the first of them its ports, for SRV. It
follows from names, ports and addresses alone, so a change of instances is none here. Of a name that several services claim, one
table has it: that of the strongest claim (see `contest.py`), whatever the service speaks.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from envoy.data.dns.v3.dns_table_pb2 import DnsTable

from isthmus.registry.model import Conflict, ServiceKey
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate.apply import NOTHING, ByType, apply
from isthmus.xds.translate.contest import Settlement
from isthmus.xds.translate.part import Frame, Part
from isthmus.xds.translate.translation import Translation

MAX_NAME = 253
"""Characters of a name that anybody can ask for (RFC 1035 §2.3.4: 255 octets, of which the lengths of labels are part)."""

_Domain = DnsTable.DnsVirtualDomain
_Endpoint = DnsTable.DnsEndpoint


class DnsPart(msgspec.Struct, frozen=True, gc=False):
    """One service's table, if it has an address, and what it was made from."""

    frame: Frame
    lost: Mapping[str, ServiceKey]
    table: Resource | None


class DnsView(msgspec.Struct, frozen=True):
    """The tables of a mesh. `changed` names those that differ from the view before; None when there was none.

    `settlement` is who has which name.
    """

    resources: ByType
    changed: Mapping[TypeUrl, frozenset[str]] | None
    conflicts: tuple[Conflict, ...]
    parts: Mapping[ServiceKey, DnsPart]
    settlement: Settlement


_NONE_LOST: Mapping[str, ServiceKey] = {}


def to_dns_view(
    translation: Translation, previous: DnsView | None = None, affected: frozenset[ServiceKey] | None = None
) -> DnsView:
    """Make the tables of a translation, sharing with `previous` what has not changed; `affected` as in `to_grpc_view`."""
    before = {} if previous is None else previous.parts
    now = translation.progress
    if affected is None or previous is None:
        affected = frozenset(before.keys() | now.parts.keys())
    shared = translation.mesh.settings.shared_address
    differing = {
        key: part
        for key in affected
        if (part := _to_part(now.parts.get(key), key, now.settlement, shared, old := before.get(key))) is not old
    }
    if previous is not None and not differing and previous.settlement is now.settlement:
        return msgspec.structs.replace(previous, changed={})
    gone = [table for key in differing if (old := before.get(key)) and (table := old.table)]
    come = [part.table for part in differing.values() if part and part.table]
    parts = {key: part for key, part in {**before, **differing}.items() if part}
    resources, changed = apply(NOTHING if previous is None else previous.resources, gone, come)
    told = {(c.subject, c.kept, c.dropped) for c in translation.conflicts}
    return DnsView(
        resources=resources,
        changed=None if previous is None else changed,
        conflicts=tuple(
            sorted(
                Conflict(f"host name {name} in DNS", str(owner), str(key))
                for key, lost in now.settlement.names_lost.items()
                for name, owner in lost.items()
                if (f"host name {name}", str(owner), str(key)) not in told
            )
        ),
        parts=parts,
        settlement=now.settlement,
    )


def _to_part(
    part: Part | None, key: ServiceKey, settlement: Settlement, shared: str, before: DnsPart | None
) -> DnsPart | None:
    """What a service contributes, if it is granted; `before` itself where that is the same."""
    if part is None or key in settlement.left_out:
        return None
    lost = settlement.names_lost.get(key, _NONE_LOST)
    if before is not None and before.frame is part.frame and before.lost == lost:
        return before
    return DnsPart(part.frame, lost, _to_table(part.frame, lost, shared))


def _to_table(frame: Frame, lost: Mapping[str, ServiceKey], shared: str) -> Resource | None:
    claim = frame.claim
    address = frame.virtual_ip or (shared if claim.http_ports else None)
    if address is None:
        return None
    table = DnsTable()
    for tier in claim.hosts:
        for host in tier:
            if host not in lost and len(host) <= MAX_NAME:
                table.virtual_domains.append(
                    _Domain(name=host, endpoint=_Endpoint(address_list={"address": [address]}))
                )
    services = [
        DnsTable.DnsService(
            service_name=front.port.name,
            protocol=DnsTable.DnsServiceProtocol(name="tcp"),
            targets=[DnsTable.DnsServiceTarget(host_name=claim.hostname, port=front.port.number)],
        )
        for front in frame.fronts
    ]
    ports = _Endpoint(service_list=DnsTable.DnsServiceList(services=services))
    table.virtual_domains.append(_Domain(name=claim.hostname, endpoint=ports))
    return Resource.of(TypeUrl.DNS_TABLE, claim.hostname, table)
