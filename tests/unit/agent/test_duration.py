"""Durations, as Istio's files write them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.duration import Duration, decode, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("0s", 0), ("0", 0), (".5s", 0.5), ("10us", 1e-5)],
)
def test_what_istio_writes_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "45", "s", "-1s", "1 s", "1d", "1s ", "1,5s", "1s1", "٤s", "NaNs", "9999999h"])
def test_what_has_no_unit_or_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 45s, 1m30s or 500ms"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_what_is_shown_is_read_again(milliseconds: int) -> None:
    assert parse_duration(str(Duration(milliseconds / 1000))) == pytest.approx(milliseconds / 1000)


def test_a_field_of_a_configuration() -> None:
    """Text is read; a bare number is refused with the path of the field."""

    class Config(msgspec.Struct):
        drain: Duration = Duration(45)

    assert msgspec.convert({"drain": "1m"}, Config, dec_hook=decode).drain == Duration(60)
    with pytest.raises(msgspec.ValidationError, match=r"expected a duration .* - at `\$\.drain`"):
        msgspec.convert({"drain": 45}, Config, dec_hook=decode)
