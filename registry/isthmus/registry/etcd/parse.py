"""Keys of etcd into instances, and the instances of one service into a service. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

import msgspec

from isthmus.registry.conventions import PORTS, Convention, Said, read, shape
from isthmus.registry.etcd.layouts import Endpoint, Found, Layout, UnreadableError, clip
from isthmus.registry.model import Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.registry.reuse import once, once_mapping

DYNAMIC_PORTS_FROM = 32_768
"""Ports from here on are handed out at random by Linux and Docker: never a service's own."""

MAX_KEY = 4096
MAX_VALUE = 256 * 1024
"""Bytes; the registrations of the known layouts have a few hundred."""

MAX_WEIGHT = 100_000

PROTOCOLS: Mapping[str, Protocol] = {p.value: p for p in Protocol} | {
    "grpcs": Protocol.TLS,
    "h2c": Protocol.HTTP2,
    "mucp": Protocol.TCP,
    "thrift": Protocol.TCP,
    "ttheader": Protocol.TCP,
}

_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


class Rules(msgspec.Struct, frozen=True):
    """What holds for every key below one prefix. `layout` is its name, for people."""

    origin: str
    prefix: str
    layout: str
    namespace: str = "default"
    default_protocol: Protocol = Protocol.HTTP
    default_port: int = 80
    conventions: tuple[Convention, ...] = ()


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One instance that a key announces."""

    key: ServiceKey
    instance: Instance
    rules: Rules
    hostname: str = ""
    said: Said | None = None
    """By the configured conventions; None where there are none."""


class Parsed(msgspec.Struct, frozen=True):
    """What became of one key: its instances, and why something of it could not be used."""

    claims: tuple[Claim, ...] = ()
    reasons: tuple[str, ...] = ()


def parse_key(layout: Layout, key: bytes, value: bytes, rules: Rules, *, permanent: bool) -> Parsed:
    """One key below the prefix. `permanent` says that no lease will ever take it away."""
    if len(key) > MAX_KEY or len(value) > MAX_VALUE:
        reason = f"key of {len(key)} and value of {len(value)} bytes; at most {MAX_KEY} and {MAX_VALUE} are read"
        return Parsed(reasons=(reason,))
    try:
        name = key.decode()
        found = layout(path_of(name, rules.prefix), rules.prefix, value)
    except UnicodeDecodeError:
        return Parsed(reasons=("the key is not text",))
    except UnreadableError as e:
        return Parsed(reasons=(str(e),))
    claims: dict[str, Claim] = {}
    reasons: list[str] = []
    for one in found:
        try:
            for claim in _claims(name, one, rules, reasons, permanent=permanent):
                if claim.instance.id in claims:
                    reasons.append(f"{claim.instance.id} is there twice")
                claims.setdefault(claim.instance.id, claim)
        except UnreadableError as e:
            reasons.append(str(e))
    return Parsed(tuple(claims.values()), tuple(reasons))


def path_of(key: str, prefix: str) -> str:
    """What follows the prefix, without a slash at its beginning."""
    return key[len(prefix) :].lstrip("/")


def _claims(key: str, found: Found, rules: Rules, reasons: list[str], *, permanent: bool) -> Iterable[Claim]:
    """One instance; several where the endpoints are on different hosts."""
    if not found.service or len(found.service) > 253:
        raise UnreadableError(f"service name {clip(found.service)!r}: expected 1 to 253 characters")
    endpoints = [msgspec.structs.replace(e, host=_address(e.host)) for e in found.endpoints]
    first = endpoints[0].host
    said = _said(key, found, rules, endpoints[0].port)
    if said is not None:
        reasons.extend(f"{about}: {reason}" for about, reason in said.remarks)
        if said.unusable:
            raise UnreadableError(said.unusable)
    # The first host keeps the key as its id.
    for host, here in groupby(sorted(endpoints, key=lambda e: (e.host != first, e.host)), key=lambda e: e.host):
        id_ = key if not found.name else f"{key}#{found.name}"
        yield Claim(
            key=once(ServiceKey(rules.namespace, found.service)),
            instance=Instance(
                id=id_ if host == first else f"{id_}@{host}",
                origin=rules.origin,
                address=host,
                ports=_ports(here, rules, reasons, said.protocol if said else None),
                # Presence is all that etcd knows of health: the lease is kept alive.
                health=Health.HEALTHY if found.weight else Health.UNHEALTHY,
                weight=min(max(found.weight, 1), MAX_WEIGHT),
                locality=once(Locality(found.labels.get("region", ""), found.labels.get("zone", ""))),
                labels=once_mapping(dict(sorted((said.labels if said else found.labels).items()))),
                provenance=_provenance(rules.layout, permanent, said),
            ),
            rules=rules,
            hostname=found.hostname if _HOST_NAME.fullmatch(found.hostname) else "",
            said=said,
        )


def _said(key: str, found: Found, rules: Rules, port: int) -> Said | None:
    if not rules.conventions and not found.tags and PORTS not in found.labels:
        return None
    id_ = key.rstrip("/").rpartition("/")[2]  # registrator's: <host>:<container>:<port>
    said = read(rules.conventions, found.tags, found.labels, id_=id_, port=port)
    # What the layout itself has read is not read again.
    return msgspec.structs.replace(said, weight=None) if found.weight != 1 else said


def _ports(
    endpoints: Iterable[Endpoint], rules: Rules, reasons: list[str], by_convention: Protocol | None
) -> Mapping[str, int]:
    ports: dict[str, int] = {}
    for endpoint in endpoints:
        protocol = by_convention or rules.default_protocol
        if endpoint.protocol:
            known = PROTOCOLS.get(endpoint.protocol)
            if known is None:
                accepted = ", ".join(p.value for p in Protocol)
                reasons.append(f"protocol {clip(endpoint.protocol)!r} is none of {accepted}; taken for tcp")
            protocol = known or Protocol.TCP
        number = endpoint.port or (0 if endpoint.host.startswith("unix:") else rules.default_port)
        if ports.setdefault(protocol.value, number) != number:
            reasons.append(f"{endpoint.host}:{number}: a second {protocol.value} port of one instance is left out")
    return once_mapping(dict(sorted(ports.items())))


def _provenance(layout: str, permanent: bool, by: Said | None) -> Mapping[str, str]:
    said = {
        "layout": layout,
        "lease": "none: the key is permanent" if permanent else "",
        "conventions": ", ".join(by.applied) if by else "",
    }
    return once_mapping({k: v for k, v in said.items() if v})


@lru_cache(4096)
def _address(host: str) -> str:
    if host.startswith("unix://"):
        if not host.startswith("unix:///") or "\0" in host:
            raise UnreadableError(f"{clip(host)!r}: expected unix:///path")
        return host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        # All digits and dots is an address with a slip in it, never a name that would resolve (RFC 3696, 2).
        if not _HOST_NAME.fullmatch(host) or host.rstrip(".").rpartition(".")[2].isdigit():
            raise UnreadableError(f"address {clip(host)!r} is neither an IP address nor a host name") from None
        return host
    if ip.is_unspecified or ip.is_multicast or "%" in host:
        raise UnreadableError(f"address {host} cannot be called from elsewhere")
    return str(ip)


def to_service(claims: Sequence[Claim]) -> tuple[Service, tuple[str, ...]]:
    """All claims of one service, at least one, as a service, and why a port of it was left out.

    A port is named for its protocol. Its number is the one that all instances share, unless it is a random one; else, of a
    single port, the one inside the container; else the default. The number can be had once: the default protocol's port comes
    first, the others by name.
    """
    claims = sorted(claims, key=lambda c: c.instance.id)
    rules = claims[0].rules
    numbers: dict[str, set[int]] = {}
    for claim in claims:
        for name, number in claim.instance.ports.items():
            numbers.setdefault(name, set()).add(number)
    exposed = (
        next((c.said.exposed for c in claims if c.said is not None and c.said.exposed), 0) if len(numbers) == 1 else 0
    )
    ports: dict[int, Port] = {}
    reasons: list[str] = []
    for name in sorted(numbers, key=lambda n: (n != rules.default_protocol.value, n)):
        shared = numbers[name] - {0}
        shares = len(shared) == 1 and max(shared) < DYNAMIC_PORTS_FROM
        number = shared.pop() if shares else exposed or rules.default_port
        if number in ports:
            reasons.append(f"port {number} is both {ports[number].protocol.value} and {name}; {name} is left out")
        else:
            ports[number] = Port(name, number, Protocol(name))
    names = {port.name for port in ports.values()}
    instances = (c.instance for c in claims)
    if reasons:
        instances = (
            msgspec.structs.replace(i, ports={n: p for n, p in i.ports.items() if n in names}) for i in instances
        )
    service = Service(
        key=claims[0].key,
        ports=tuple(ports[n] for n in sorted(ports)),
        instances=tuple(instances),
        hostnames=frozenset(c.hostname for c in claims if c.hostname),
    )
    saids = {c.instance.id: c.said for c in claims if c.said is not None}
    service, remarks = shape(service, next(iter(ports.values())).name, saids, DYNAMIC_PORTS_FROM)
    reasons += [f"{about}: {reason}" for about, reason in remarks]
    return service, tuple(reasons)
