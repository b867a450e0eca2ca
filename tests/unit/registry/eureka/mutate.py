"""Recorded answers, and answers that are almost like them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

RECORDED = Path(__file__).parent / "recorded"
"""What a server of Spring Cloud 2025.0.0 answered and sent to its peer."""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "0", "-1", "65536", "99999999999999999999", "true", "${x}", "a,b", "\0", "::1%eth0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.json").read_bytes()


@st.composite
def almost(draw: Callable[[st.SearchStrategy[Any]], Any], name: str) -> bytes:
    """A recorded answer in which up to three values have become something else, or are gone."""
    document = copy.deepcopy(json.loads(recorded(name)))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            break
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.booleans()) and isinstance(parent, dict):
            del parent[key]
        else:
            parent[key] = draw(JSON)
    return json.dumps(document).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside a JSON value, as what it is in and its key there."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in pairs] + [place for _, inside in pairs for place in _places(inside)]
