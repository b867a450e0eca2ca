"""Questions as they go to an upstream, and its answers as they go to a client. Pure."""

from __future__ import annotations

import struct

from isthmus.agent.dns.wire import (
    AD,
    CD,
    HEADER,
    MARK,
    MIN_PAYLOAD,
    OPCODE,
    QR,
    RD,
    TC,
    Query,
    Type,
    skip_name,
    to_opt,
)


def to_forwarded(query: Query, id_: bytes, mark: bytes = b"") -> bytes:
    """The question as it is put to an upstream: under another id, and without options that are between a client and us.

    With a mark it has an OPT record in any case; then the answer has one, too.
    """
    option = MARK + len(mark).to_bytes(2) + mark if mark else b""
    opt = b"" if query.edns is None else to_opt(0, query.edns.do, option)
    if query.edns is None and mark:
        opt = to_opt(0, do=False, options=option, payload=MIN_PAYLOAD)
    head = struct.pack(">5H", query.flags & (RD | AD | CD), 1, 0, 0, 1 if opt else 0)
    return b"".join((id_, head, query.question, opt))


def is_answer(data: bytes, id_: bytes, question: bytes) -> bool:
    """Whether these bytes answer that question: id, name in whatever letters, type, class (RFC 5452 §9.1)."""
    if len(data) < HEADER or data[:2] != id_:
        return False
    flags, questions = struct.unpack_from(">HH", data, 2)
    if not flags & QR or flags & OPCODE:
        return False
    if questions == 0:  # servers that cannot read a question do not repeat it
        return len(data) == HEADER and bool(flags & 0xF)
    end = HEADER + len(question)
    # What follows the name is no text, but equal bytes stay equal in small letters, and unequal ones are compared below.
    return (
        questions == 1
        and data[HEADER : end - 4].lower() == question[:-4].lower()
        and data[end - 4 : end] == question[-4:]
    )


def rcode_of(answer: bytes) -> int:
    """What an answer says, without the part of it that is in its OPT record."""
    return answer[3] & 0xF


def is_truncated(answer: bytes) -> bool:
    """Whether there is more to it over TCP."""
    return bool(answer[2] & (TC >> 8))


def to_client(answer: bytes, query: Query, limit: int) -> bytes | None:
    """An upstream's answer as it goes to a client: under its id, with its letters; cut off where it has too many bytes.

    None when there is no answer in it that could be passed on (RFC 6891 §7: an error to a question with OPT).
    """
    if answer[4:6] != b"\0\1":
        return None
    if query.edns is None:
        answer = _without_opt(answer)
    if len(answer) <= limit:
        return b"".join((query.id, answer[2:HEADER], query.question, answer[HEADER + len(query.question) :]))
    flags = int.from_bytes(answer[2:4]) | TC
    opt = b"" if query.edns is None else to_opt(0, query.edns.do)
    return b"".join((query.id, struct.pack(">5H", flags, 1, 0, 0, 1 if opt else 0), query.question, opt))


def _without_opt(answer: bytes) -> bytes:
    """An answer to somebody who does not know of EDNS; left alone where it cannot be read."""
    questions, answers, authorities, additionals = (int.from_bytes(answer[i : i + 2]) for i in range(4, HEADER, 2))
    at, before = HEADER, questions + answers + authorities
    for number in range(before + additionals):
        end = skip_name(answer, at)
        if end is None or end + 10 > len(answer):
            return answer
        if number < questions:
            at = end + 4
            continue
        after = end + 10 + int.from_bytes(answer[end + 8 : end + 10])
        is_opt = number >= before and answer[end : end + 2] == Type.OPT.to_bytes(2)
        if is_opt and after == len(answer):  # names of what follows it could point past it
            return answer[:10] + (additionals - 1).to_bytes(2) + answer[HEADER:at]
        at = after
    return answer
