"""DNS messages: reading questions, writing answers (RFC 1035 §4, RFC 6891). Pure.

Names are handled as they stand in a message, `\\x07reviews\\x04mesh\\x00`, in small letters: labels cannot be confused with each
other whatever bytes they hold, and lower-casing leaves the lengths alone, for none of them is a letter's code.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec

HEADER = 12
MAX_NAME = 255  # RFC 1035 §2.3.4
MAX_LABEL = 63
MAX_MESSAGE = 65535
MIN_PAYLOAD = 512
"""Bytes of an answer over UDP to somebody who does not say what fits (RFC 1035 §4.2.1)."""
MAX_PAYLOAD = 4096
"""Bytes of an answer over UDP, whatever more the other side would take."""
OUR_PAYLOAD = 1232
"""Bytes of an answer over UDP that we ask for: what comes through every network in one piece (DNS flag day 2020)."""

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800
_DO = 0x8000
MARK = (65001).to_bytes(2)
"""An option for local use (RFC 6891 §9)."""


class Type(enum.IntEnum):
    """Types of records that are dealt with; all others are numbers."""

    A = 1
    SOA = 6
    AAAA = 28
    SRV = 33
    OPT = 41
    ANY = 255


IN = 1


class Rcode(enum.IntEnum):
    """What an answer says (RFC 1035 §4.1.1, RFC 6891 §9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class WireError(ValueError):
    """A text is no name."""


class MalformedError(Exception):
    """Bytes that are no question. `answer` is what to say, None when to say nothing."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__()
        self.answer = answer


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What a client's OPT record says: bytes that it takes over UDP, version, whether it wants signatures, and our own mark."""

    payload: int
    version: int
    do: bool
    mark: bytes = b""


class Query(msgspec.Struct, frozen=True, gc=False):
    """A question. `question` is its section byte for byte, `name` the name in it in small letters."""

    id: bytes
    flags: int
    name: bytes
    type: int
    class_: int
    question: bytes
    edns: Edns | None

    @property
    def payload(self) -> int:
        """Bytes that an answer over UDP may have."""
        return MIN_PAYLOAD if self.edns is None else min(max(self.edns.payload, MIN_PAYLOAD), MAX_PAYLOAD)


class Body(msgspec.Struct, frozen=True, gc=False):
    """What an answer says, without what it repeats of the question: numbers of records in its three sections, and the records."""

    rcode: Rcode
    counts: tuple[int, int, int] = (0, 0, 0)
    records: bytes = b""
    aa: bool = True


def to_wire(name: str) -> bytes:
    """Turn a host name into a message's form, in small letters.

    Raises:
        WireError: a label is empty or has more than 63 bytes, or all have more than 255.

    """
    try:
        labels = name.removesuffix(".").encode("ascii").lower().split(b".")
    except UnicodeEncodeError:
        raise WireError(f"{name!r} is no host name: write other letters than ASCII's as xn--…") from None
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise WireError(f"{name!r} is no host name: expected labels of 1 to {MAX_LABEL} characters between dots")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > MAX_NAME:
        raise WireError(f"{name!r} is no host name: it is longer than {MAX_NAME - 2} characters")
    return wire


def suffixes(name: bytes) -> Iterator[int]:
    """Where each label of a name begins, the whole name's first; the root is not among them."""
    at = 0
    while name[at]:
        yield at
        at += name[at] + 1


def parse_query(data: bytes) -> Query:
    """Read what a client sends.

    Raises:
        MalformedError: it is no question, or one of a kind that nobody answers.

    """
    if len(data) < HEADER:
        raise MalformedError(None)
    flags, questions, answers, authorities, additionals = struct.unpack_from(">5H", data, 2)
    if flags & QR:
        raise MalformedError(None)  # or two servers would answer each other for ever
    if flags & OPCODE:
        raise MalformedError(_refusal(data, flags, Rcode.NOTIMP))
    malformed = MalformedError(_refusal(data, flags, Rcode.FORMERR))
    if questions != 1 or answers or authorities:
        raise malformed
    at = HEADER
    while at < len(data) and data[at]:
        if data[at] > MAX_LABEL:
            raise malformed  # a pointer, too: in the first name there is nothing to point to
        at += data[at] + 1
    end = at + 5
    if end > len(data) or at + 1 - HEADER > MAX_NAME:
        raise malformed
    type_, class_ = struct.unpack_from(">HH", data, at + 1)
    edns: Edns | None = None
    after = end
    for _ in range(additionals):
        name_end = skip_name(data, after)
        if name_end is None or name_end + 10 > len(data):
            raise malformed
        kind, payload, ttl, length = struct.unpack_from(">HHIH", data, name_end)
        if kind == Type.OPT:
            if edns is not None or name_end != after + 1 or data[after]:
                raise malformed  # RFC 6891 §6.1.1: one at most, and its name is the root
            mark = _mark(data[name_end + 10 : name_end + 10 + length])
            if mark is None:
                raise malformed
            edns = Edns(payload, (ttl >> 16) & 0xFF, bool(ttl & _DO), mark)
        after = name_end + 10 + length
    if after != len(data):
        raise malformed
    return Query(data[:2], flags, data[HEADER : at + 1].lower(), type_, class_, data[HEADER:end], edns)


def _mark(options: bytes) -> bytes | None:
    """Our option among those of an OPT record, or nothing; None when they are malformed."""
    at, mark = 0, b""
    while at < len(options):
        end = at + 4 + int.from_bytes(options[at + 2 : at + 4])
        if len(options) < at + 4 or end > len(options):
            return None
        if options[at : at + 2] == MARK:
            mark = options[at + 4 : end]
        at = end
    return mark


def skip_name(data: bytes, at: int) -> int | None:
    """Find where a name that may end with a pointer ends; None when it does not."""
    while at < len(data):
        length = data[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > MAX_LABEL:
            return None
        at += length + 1
    return None


def _refusal(data: bytes, flags: int, rcode: Rcode) -> bytes:
    """An answer to something that has no question that could be repeated."""
    return data[:2] + struct.pack(">5H", QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def to_answer(query: Query, body: Body, limit: int) -> bytes:
    """The answer to a question; when it would have more bytes than the limit, one that says so (TC) and nothing else."""
    opt = b"" if query.edns is None else to_opt(body.rcode, query.edns.do)
    counts, records = body.counts, body.records
    flags = QR | RA | (query.flags & (RD | CD)) | (body.rcode & 0xF)
    if body.aa:
        flags |= AA
    if HEADER + len(query.question) + len(records) + len(opt) > limit:
        flags |= TC
        counts, records = (0, 0, 0), b""
    answers, authorities, additionals = counts
    head = struct.pack(">5H", flags, 1, answers, authorities, additionals + (1 if opt else 0))
    return b"".join((query.id, head, query.question, records, opt))


def to_opt(rcode: int, do: bool, options: bytes = b"", payload: int = OUR_PAYLOAD) -> bytes:
    """Make an OPT record, the part of the code in it that has no room in the header."""
    return struct.pack(">BHHIH", 0, Type.OPT, payload, (rcode >> 4) << 24 | (_DO if do else 0), len(options)) + options


def to_record(owner: bytes, type_: int, ttl: int, rdata: bytes) -> bytes:
    """One record of the class IN."""
    return owner + struct.pack(">HHIH", type_, IN, ttl, len(rdata)) + rdata


def pointer(at: int) -> bytes:
    """A name that stands in the question, from that byte of it on."""
    return struct.pack(">H", 0xC000 | (HEADER + at))
