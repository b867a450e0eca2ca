"""What Isthmus' agent says of the instances that it registers, in their metadata: written and read here, and read always. Pure.

No registry has a place for all of it: Consul, before 1.22, and Eureka know one port of an instance, etcd's layouts one of each
protocol, and none the number that callers name. Keys with `isthmus-` are the agent's own, and no labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from isthmus.registry.conventions.said import MAX_WEIGHT, DeclaredPort, Sheet, clip, whole
from isthmus.registry.model import Locality, Protocol

PREFIX = "isthmus-"

PORTS = "isthmus-ports"
"""`http=9080:19080/http,admin=9090/tcp`: name, number that callers name, the instance's own where it is another one, protocol."""

LOCALITY = "isthmus-locality"
"""`region/zone/sub-zone`."""

WEIGHT = "isthmus-weight"
"""Its weight, whatever the registry allows: Consul knows no 0, and of Consul and Eureka no more than 128 is read."""

EPOCH = "isthmus-epoch"
"""A whole number: who registers with a larger one has taken the instance over from whoever has a smaller one."""

DRAINED = "isthmus-drained"
"""There while the agent itself, and no operator, is draining the instance."""

MAX_PORTS = 32

_PORT = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)=(\d{1,5})(?::(\d{1,5}))?/([a-z0-9-]{1,20})", re.ASCII)


def to_ports(ports: Sequence[DeclaredPort]) -> str:
    """What `PORTS` is to say, the main one first."""
    return ",".join(
        f"{p.name}={p.number}{'' if p.here == p.number else f':{p.here}'}/{p.protocol.value}" for p in ports
    )


def to_locality(locality: Locality) -> str:
    """What `LOCALITY` is to say."""
    return "/".join((locality.region, locality.zone, locality.sub_zone)).rstrip("/")


def agent(sheet: Sheet) -> None:
    """Take what an agent says off the sheet. What makes no sense is remarked, and not followed."""
    if PORTS not in sheet.meta:
        return
    said = {key: sheet.meta.pop(key) for key in list(sheet.meta) if key.startswith(PREFIX)}
    try:
        sheet.declared = parse_ports(said[PORTS])
    except ValueError as e:
        sheet.remark(f"metadata {PORTS}", f"{clip(said[PORTS])!r}: {e}; not followed")
    if weight := said.get(WEIGHT, ""):
        number = whole(weight)
        if number is None or number > MAX_WEIGHT:
            sheet.remark(
                f"metadata {WEIGHT}", f"{clip(weight)!r} is not a whole number, 0 to {MAX_WEIGHT}; not followed"
            )
        else:
            sheet.declared_weight = number
    if place := said.get(LOCALITY, ""):
        region, zone, sub_zone = [*place.split("/", 2), "", ""][:3]
        sheet.place = Locality(region, zone, sub_zone)


def parse_ports(said: str) -> tuple[DeclaredPort, ...]:
    """The ports that a text declares.

    Raises:
        ValueError: it is no such text.

    """
    ports: list[DeclaredPort] = []
    words = said.split(",")
    if len(words) > MAX_PORTS:
        raise ValueError(f"{len(words)} ports; at most {MAX_PORTS} are read")
    for word in words:
        found = _PORT.fullmatch(word)
        if found is None:
            raise ValueError("expected NAME=NUMBER:OWN/PROTOCOL, with commas between")
        port = DeclaredPort(found[1], int(found[3]), int(found[4] or found[3]), Protocol(found[5]))
        if not (1 <= port.number <= 65535 and 1 <= port.here <= 65535):
            raise ValueError("port numbers are from 1 to 65535")
        if any(p.name == port.name or p.number == port.number for p in ports):
            raise ValueError(f"port {port.name} or its number is there twice")
        ports.append(port)
    return tuple(ports)


def labels_of(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The metadata, which may be an agent's, without what is no label."""
    if PORTS not in metadata:
        return metadata
    return {k: v for k, v in metadata.items() if not k.startswith(PREFIX)}
