"""Whatever arrives: answers are well-formed, never too long, and repeat what they answer."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
from hypothesis import assume, example, given
from hypothesis import strategies as st

from isthmus.agent.dns.answer import Answers
from isthmus.agent.dns.forward import is_answer, to_client, to_forwarded
from isthmus.agent.dns.table import Record
from isthmus.agent.dns.wire import (
    MAX_PAYLOAD,
    MalformedError,
    Query,
    parse_query,
    to_wire,
)
from tests.unit.agent.dns.world import NAMES, table

MANY = Record("big.default.mesh", tuple(f"127.64.1.{i}" for i in range(1, 61)), (("http", 80), ("https", 443)))
ANSWERS = Answers(
    table([*NAMES, MANY]), domains=frozenset({to_wire("mesh")}), search=frozenset({to_wire("corp.example")}), ttl=30
)

labels = st.one_of(
    st.sampled_from(
        [b"reviews", b"REVIEWS", b"default", b"mesh", b"big", b"_http", b"_tcp", b"corp", b"example", b"*"]
    ),
    st.binary(min_size=1, max_size=63),
)
names = st.lists(labels, max_size=8).map(lambda parts: b"".join(bytes([len(p)]) + p for p in parts) + b"\0")
opt = st.builds(
    lambda size, version, flags, data: (
        b"\0\0\x29" + size.to_bytes(2) + b"\0" + bytes([version]) + flags.to_bytes(2) + len(data).to_bytes(2) + data
    ),
    st.integers(0, 65535),
    st.sampled_from([0, 0, 0, 1, 255]),
    st.sampled_from([0, 0x8000, 0xFFFF]),
    st.binary(max_size=40),
)


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    """Mostly well-formed."""
    flags = draw(st.one_of(st.sampled_from([0, 0x0100, 0x0110, 0x0120]), st.integers(0, 65535)))
    extra = draw(st.lists(opt, max_size=2))
    counts = draw(st.one_of(st.just((1, 0, 0, len(extra))), st.tuples(*[st.integers(0, 3)] * 4)))
    kind = draw(st.one_of(st.sampled_from([1, 28, 33, 255, 16, 6, 65, 252]), st.integers(0, 65535)))
    class_ = draw(st.one_of(st.just(1), st.sampled_from([1, 3, 255])))
    body = draw(names) + kind.to_bytes(2) + class_.to_bytes(2) + b"".join(extra)
    head = draw(st.binary(min_size=2, max_size=2)) + flags.to_bytes(2) + b"".join(c.to_bytes(2) for c in counts)
    message = head + body
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(message)))
        message = message[:at] + draw(st.binary(max_size=4)) + message[at + draw(st.integers(0, 4)) :]
    return message


@given(st.one_of(questions(), st.binary(max_size=100)), st.sampled_from([None, 65535]))
@example(b"", None)
@example(b"\0" * 12, None)
@example(b"\0\0\1\0\0\1\0\0\0\0\0\0" + b"\x3fa" * 40, None)
def test_any_bytes_are_answered_well_or_not_at_all(data: bytes, limit: int | None) -> None:
    found = None
    try:
        found = ANSWERS.answer(data, limit)
    except MalformedError as e:
        error = e.answer
    else:
        error = None
    if found is None:
        if error is not None:
            assert error[:2] == data[:2]
            assert dns.message.from_wire(error).rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP)
        return
    if isinstance(found, Query):
        forwarded = to_forwarded(found, b"\xab\xcd")
        assert dns.message.from_wire(forwarded).id == 0xABCD
        assert forwarded[12 : 12 + len(found.question)] == data[12 : 12 + len(found.question)]
        return
    answer = data[:2] + found.rest
    query = parse_query(data)
    assert len(answer) <= (limit or max(512, min(query.edns.payload if query.edns else 0, MAX_PAYLOAD)))
    assert answer[12 : 12 + len(query.question)] == query.question
    message = dns.message.from_wire(answer, one_rr_per_rrset=True)
    assert message.flags & dns.flags.QR
    assert (message.edns >= 0) == (query.edns is not None)
    if message.flags & dns.flags.TC:
        assert not message.answer


@given(questions())
def test_what_is_kept_is_what_was_said(data: bytes) -> None:
    """The dict of encoded answers changes nothing but time; another id gets the same answer."""
    assume(len(data) >= 12)
    try:
        first = ANSWERS.answer(data)
    except MalformedError:
        assert data[2:] not in ANSWERS.kept
        return
    if isinstance(first, Query):
        assert data[2:] not in ANSWERS.kept
        return
    fresh = Answers(
        table([*NAMES, MANY]), domains=frozenset({to_wire("mesh")}), search=frozenset({to_wire("corp.example")}), ttl=30
    )
    assert fresh.answer(b"\1\2" + data[2:]) == first
    if data[2:] in ANSWERS.kept:
        assert ANSWERS.kept[data[2:]] == first


@given(questions(), st.binary(max_size=80), st.booleans(), st.sampled_from([512, 1232, 4096]))
def test_any_answer_of_an_upstream_is_passed_on_whole_or_cut_off(
    data: bytes, tail: bytes, mutate: bool, limit: int
) -> None:
    try:
        query = parse_query(data)
    except MalformedError:
        return
    forwarded = to_forwarded(query, b"\xab\xcd")
    answer = forwarded[:2] + bytes([forwarded[2] | 0x80]) + forwarded[3:] + tail
    if mutate:
        answer = tail + answer
    if is_answer(answer, b"\xab\xcd", query.question):
        passed = to_client(answer, query, limit)
        assert passed is None or (
            len(passed) <= limit and passed[:2] == data[:2] and passed[12 : 12 + len(query.question)] == query.question
        )


@given(questions())
def test_our_reader_and_another_one_agree(data: bytes) -> None:
    """Each question that is taken is one for dnspython, too, and means the same."""
    try:
        query = parse_query(data)
    except MalformedError:
        return
    try:
        other = dns.message.from_wire(data)
    except dns.exception.DNSException:
        return  # options that only it looks into
    assert len(other.question) == 1
    assert (other.question[0].name.to_wire() or b"").lower() == query.name
    assert (other.question[0].rdtype, other.question[0].rdclass) == (query.type, query.class_)
    assert other.edns == (query.edns.version if query.edns else -1)


@given(st.text(alphabet="abcXYZ019-_.é*", max_size=80))
def test_names_are_what_another_library_makes_of_them(text: str) -> None:
    try:
        wire = to_wire(text)
    except ValueError:
        return
    assert wire == (dns.name.from_text(text).to_wire() or b"").lower()
