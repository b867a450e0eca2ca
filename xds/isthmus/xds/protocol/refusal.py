"""Which resources a refusal is about. The protocol has no field for it, but clients put the names into their text.

Envoy writes `Error adding/updating cluster(s) NAME: reason, NAME: reason`, gRPC's libraries write each name in quotation marks or
after `resource`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BEFORE = r"(?:^|[\s\"'(\[,=])"
_AFTER = r"(?:$|[\s\"')\],;]|:(?:\s|$)|\.(?:\s|$))"


def named_in(error: str, names: Iterable[str]) -> list[str]:
    """Those of the names that stand in a text as a word of their own."""
    return [n for n in names if n in error and re.search(_BEFORE + re.escape(n) + _AFTER, error)]
