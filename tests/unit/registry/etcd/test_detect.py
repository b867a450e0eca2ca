"""Which layout a prefix has, by a sample, and when that is not clear."""

from __future__ import annotations

import pytest

from isthmus.registry.etcd.detect import CANDIDATES, SAMPLE, detect
from tests.unit.registry.etcd.examples import EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e[0]} {e[2]}")
def test_every_example_is_told_from_all_others(example: tuple[str, str, str, str, object]) -> None:
    layout, prefix, path, value, _ = example
    expected = "go-zero" if layout == "registrator" else layout
    found = detect([(path, value.encode())], prefix)
    assert (found.layout, found.sampled, found.explained) == (expected, 1, 1)


def test_strays_do_not_hide_a_layout() -> None:
    keys = [(f"web/{n}", b"10.0.0.1:80") for n in range(19)] + [("web/readme", b"hello")]
    assert detect(keys, "/p/").layout == "go-zero"


def test_a_mixture_is_not_clear() -> None:
    keys = [(f"web/{n}", b"10.0.0.1:80") for n in range(6)]
    keys += [(f"api/{n}", b'{"Addr":"10.0.0.1:80"}') for n in range(6)]
    found = detect(keys, "/p/")
    assert found.layout == ""
    assert "grpc 6" in found.reason
    assert "go-zero 6" in found.reason


def test_nothing_known_is_not_clear() -> None:
    assert "no known layout explains any of 1" in detect([("a", b"?")], "/p/").reason


def test_the_sample_is_spread_over_all_keys() -> None:
    """Half of many keys are of one layout, and they come first."""
    keys = [(f"a/{n}", b"10.0.0.1:80") for n in range(5000)] + [(f"b/{n}", b"?") for n in range(5000)]
    found = detect(keys, "/p/")
    assert found.layout == ""
    assert found.sampled == SAMPLE


def test_no_keys() -> None:
    assert detect([], "/p/").layout == ""


def test_there_is_a_candidate_for_each_shape() -> None:
    assert len(CANDIDATES) == len(set(CANDIDATES)) == 6
