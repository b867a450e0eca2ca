"""YAML within limits, with lines."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.marked_yaml import MAX_DEPTH, MarkedYAMLError, parse_marked_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=20
)


@given(VALUES)
def test_reads_what_the_usual_writer_writes(value: object) -> None:
    assert parse_marked_yaml(yaml.safe_dump(value).encode()).value == value


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"a: [1\nb: 2", 2, "did not find expected"),
        (b"a: 1\nb: 2\na: 3", 3, "the key 'a' stands twice, first on line 1"),
        (b"a: 1\n1: 2", 2, "the key 1 is not a string; quote it"),
        (b"a: 1\n---\nb: 2", 2, "a second YAML document begins"),
        (b"a: 1\nb: &x [*x]", 2, "*x stands before or inside its own &x"),
        (b"a: !python/object:os.system x", 1, "is not known here"),
        (b"a: 1\nb: !!int zz", 2, "'zz' is not a valid int"),
        (b"a: 1\nb: \xe9", 2, "not UTF-8 text"),
        (b"a: 1\nb: \x07", 2, "the character 0x7 is not allowed"),
        (b"a: &a [1]\nb: {<<: *a}", 2, "<< takes a mapping"),
        (b"[" * 1_000_000, 1, f"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_refuses_with_the_line_and_the_reason(text: bytes, line: int, reason: str) -> None:
    with pytest.raises(MarkedYAMLError) as error:
        parse_marked_yaml(text)
    assert error.value.line == line
    assert reason in error.value.reason


def test_a_few_lines_cannot_stand_for_billions_of_values() -> None:
    bomb = b"a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    for i in range(1, 12):
        bomb += b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10))
    with pytest.raises(MarkedYAMLError, match="more than 4000000 values"):
        parse_marked_yaml(bomb)


def test_merges_mappings_and_explicit_keys_win() -> None:
    text = b"base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nmade: {<<: [*b, *o], x: 0}"
    assert parse_marked_yaml(text).value["made"] == {"x": 0, "y": 2, "z": 4}


def test_what_looks_like_a_date_is_a_string() -> None:
    assert parse_marked_yaml(b"released: 2024-01-01").value == {"released": "2024-01-01"}


def test_knows_the_line_of_the_deepest_value_that_a_path_reaches() -> None:
    marked = parse_marked_yaml(b"services:\n- name: a\n- name: b\n  ports:\n  - number: x\n")
    assert marked.line_of(["services", 1, "ports", 0, "number"]) == 5
    assert marked.line_of(["services", 1, "instances", 0]) == 3
