"""What the mesh's names are answered with; everything else is not ours to answer. Pure.

    A, AAAA    the addresses; no record (NODATA) where the mesh has none of that kind: nobody is asked for them elsewhere
    SRV        `_<port name>._tcp.<name>`: that port; `<name>`: all ports (RFC 2782)
    ANY        addresses of one kind (RFC 8482)
    others     no record
    unknown    below the mesh's domains: the name does not exist. Elsewhere: somebody else knows

Answers are encoded when somebody asks for the first time, and kept until the table changes.
"""

from __future__ import annotations

import enum

import msgspec

from isthmus.agent.dns.table import Entry, NameTable
from isthmus.agent.dns.wire import (
    IN,
    MIN_PAYLOAD,
    Body,
    Query,
    Rcode,
    Type,
    parse_query,
    pointer,
    suffixes,
    to_answer,
    to_record,
)

NEGATIVE_TTL = 5
"""Seconds for which callers may keep that there is nothing (RFC 2308)."""
MAX_KEPT = 16_384
"""Answers that are kept encoded; a caller that varies the letters of names makes new ones for ever."""
LONGEST_KEPT = 320

_TCP = b"\x04_tcp"


class Result(enum.StrEnum):
    """How a question ended."""

    ANSWERED = "answered"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    FORWARDED = "forwarded"
    NOT_SYNCED = "not_synced"
    """Below the mesh's domain, and the mesh's names are not known yet."""
    UPSTREAM_FAILED = "upstream_failed"
    OVERLOADED = "overloaded"
    REFUSED = "refused"
    MALFORMED = "malformed"
    DROPPED = "dropped"


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An answer without its id."""

    rest: bytes
    result: Result


class _Said(msgspec.Struct, frozen=True, gc=False):
    body: Body
    result: Result


class Answers:
    """The answers that one table gives; None: no table has come yet."""

    def __init__(
        self, table: NameTable | None, *, domains: frozenset[bytes], search: frozenset[bytes], ttl: int
    ) -> None:
        self._table = table
        self._domains = domains
        self._search = search
        self._ttl = ttl
        self._said: dict[tuple[bytes, int], _Said | None] = {}
        self.kept: dict[bytes, Encoded] = {}
        """By everything that a question over UDP says but its id, the answer."""

    def answer(self, data: bytes, limit: int | None = None) -> Encoded | Query:
        """Answer what was received; the question when it is not for us to answer. `limit` is None over UDP.

        Raises:
            MalformedError: it is no question.

        """
        query = parse_query(data)
        said = self._say(query)
        if said is None:
            return query
        answer = to_answer(query, said.body, query.payload if limit is None else limit)
        encoded = Encoded(answer[2:], said.result)
        if limit is None and len(data) <= LONGEST_KEPT and len(answer) <= MIN_PAYLOAD:
            if len(self.kept) >= MAX_KEPT:
                self.kept.clear()
            self.kept[data[2:]] = encoded
        return encoded

    def _say(self, query: Query) -> _Said | None:
        if query.edns is not None and query.edns.version:
            return _Said(Body(Rcode.BADVERS, aa=False), Result.REFUSED)
        if query.class_ != IN:
            return _Said(Body(Rcode.REFUSED, aa=False), Result.REFUSED)
        if query.type in _TRANSFERS:
            return _Said(Body(Rcode.REFUSED, aa=False), Result.REFUSED)
        key = (query.name, query.type)
        try:
            return self._said[key]
        except KeyError:
            if len(self._said) >= MAX_KEPT:
                self._said.clear()
            said = self._said[key] = self._make(query.name, query.type)
            return said

    def _make(self, name: bytes, type_: int) -> _Said | None:
        zone = next((at for at in suffixes(name) if name[at:] in self._domains), None)
        if self._table is None:
            return None if zone is None else _Said(Body(Rcode.SERVFAIL, aa=False), Result.NOT_SYNCED)
        host = 0 if name in self._table.exact else _host_of_service(name)
        entry = self._table.find(name[host:], self._search)
        if entry is not None and host:
            # Names with `_` below one of ours are ours: nobody else is asked for them.
            ports = _named_ports(name, host, entry)
            if ports and type_ in (Type.SRV, Type.ANY):
                return self._services(name, host, entry, ports)
            return self._nothing(Rcode.NOERROR if ports else Rcode.NXDOMAIN, host if zone is None else zone)
        if entry is not None:
            return self._records(name, entry, type_, zone)
        if zone is None:
            return None
        exists = name in self._table.between or zone == 0
        return self._nothing(Rcode.NOERROR if exists else Rcode.NXDOMAIN, zone)

    def _records(self, name: bytes, entry: Entry, type_: int, zone: int | None) -> _Said:
        if type_ == Type.SRV and entry.ports:
            return self._services(name, 0, entry, tuple(port for _, port in entry.ports))
        records = self._addresses(entry, type_, 0)
        if not records:
            return self._nothing(Rcode.NOERROR, zone or 0)
        return _Said(Body(Rcode.NOERROR, (len(records), 0, 0), b"".join(records)), Result.ANSWERED)

    def _addresses(self, entry: Entry, type_: int, at: int) -> list[bytes]:
        owner = pointer(at)
        ipv4 = [to_record(owner, Type.A, self._ttl, a) for a in entry.ipv4]
        ipv6 = [to_record(owner, Type.AAAA, self._ttl, a) for a in entry.ipv6]
        return (
            {Type.A: ipv4, Type.AAAA: ipv6, Type.ANY: ipv4 or ipv6}.get(Type(type_), []) if type_ in _ADDRESSES else []
        )

    def _services(self, name: bytes, host: int, entry: Entry, ports: tuple[int, ...]) -> _Said:
        # RFC 2782: the target is not compressed.
        services = [
            to_record(pointer(0), Type.SRV, self._ttl, b"\0\0\0\0" + port.to_bytes(2) + name[host:]) for port in ports
        ]
        addresses = [*self._addresses(entry, Type.A, host), *self._addresses(entry, Type.AAAA, host)]
        body = Body(Rcode.NOERROR, (len(services), 0, len(addresses)), b"".join([*services, *addresses]))
        return _Said(body, Result.ANSWERED)

    def _nothing(self, rcode: Rcode, zone: int) -> _Said:
        """No records, and for how long (RFC 2308 §5: by an SOA record of a name at or above the one that was asked for)."""
        apex = pointer(zone)
        timers = b"".join(n.to_bytes(4) for n in (1, 3600, 600, 86400, NEGATIVE_TTL))
        soa = to_record(apex, Type.SOA, NEGATIVE_TTL, apex + b"\x0ahostmaster" + apex + timers)
        result = Result.NXDOMAIN if rcode is Rcode.NXDOMAIN else Result.NODATA
        return _Said(Body(rcode, (0, 1, 0), soa), result)


_ADDRESSES = frozenset({Type.A, Type.AAAA, Type.ANY})
_TRANSFERS = frozenset({251, 252})
"""IXFR and AXFR: nothing is handed out as a whole."""


def _host_of_service(name: bytes) -> int:
    """Where the host begins in `_http._tcp.reviews`: behind the labels that begin with `_`; 0 when the name has none."""
    at = 0
    while name[at] and name[at + 1] == ord("_"):
        at += name[at] + 1
    return at if name[at] else 0


def _named_ports(name: bytes, host: int, entry: Entry) -> tuple[int, ...]:
    """The ports that `_http._tcp` in front of a host means."""
    first = name[0] + 1
    if name[first:host] != _TCP:
        return ()
    return tuple(port for label, port in entry.ports if label == name[2:first])
