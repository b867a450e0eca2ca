"""Durations as Istio's files write them: `45s`, `1m30s`, `500ms`. Pure."""

from __future__ import annotations

import re
from typing import Any

EXPECTED = "expected a duration such as 45s, 1m30s or 500ms"

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?|\.\d{1,9})(ms|us|µs|ns|h|m|s)", re.ASCII)
_LONGEST = 366 * 86400.0


class Duration(float):
    """Seconds. In configuration it is text, decoded with `msgspec.convert(..., dec_hook=decode)`."""

    def __str__(self) -> str:
        """Show it as it may be written, in the shortest form that loses nothing of a millisecond."""
        milliseconds = round(self * 1000)
        if milliseconds % 1000:
            return f"{milliseconds}ms"
        minutes, seconds = divmod(milliseconds // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n]
        return "".join(parts) or "0s"

    __repr__ = __str__


def parse_duration(text: str) -> Duration:
    """Read a sequence of decimal numbers with their units, as Go's `time.ParseDuration` does, without a sign.

    Raises:
        ValueError: it is something else, or longer than a year; with what would be accepted.

    """
    if text == "0":
        return Duration(0)
    at, seconds = 0, 0.0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise ValueError(EXPECTED)
        seconds += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not text:
        raise ValueError(EXPECTED)
    if seconds > _LONGEST:
        raise ValueError(f"{EXPECTED}, at most a year")
    return Duration(seconds)


def decode(type_: type, value: Any) -> Any:
    """For msgspec's `dec_hook`: what the types of the agent's configuration need beyond msgspec's own.

    Raises:
        ValueError: the value is no duration.
        NotImplementedError: the type is another one.

    """
    if type_ is not Duration:
        raise NotImplementedError(f"{type_.__name__} cannot be read from a file")
    if not isinstance(value, str):
        raise ValueError(EXPECTED)  # noqa: TRY004 - msgspec makes a ValidationError with the path of it
    return parse_duration(value)
