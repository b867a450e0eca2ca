"""Which resources a refusal is about. The protocol has no field for it, but clients put the names into their text.

Envoy writes `Error adding/updating cluster(s) NAME: reason, NAME: reason`, gRPC's libraries write each name in quotation marks or
after `resource`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from isthmus.xds.group import Kind

TEXT_LIMIT = 2000
"""Characters of a client's text that are kept. Envoy puts the whole resource into it."""
_BEFORE = r"(?:^|[\s\"'(\[,=])"
_AFTER = r"(?:$|[\s\"')\],;]|:(?:\s|$)|\.(?:\s|$))"


def named_in(error: str, names: Iterable[str]) -> list[str]:
    """Those of the names that stand in a text as a word of their own."""
    return [n for n in names if n in error and re.search(_BEFORE + re.escape(n) + _AFTER, error)]


def is_partial(error: str, kind: Kind) -> bool:
    """Whether the client has applied the rest of a response of which it refuses what its text names.

    gRPC's libraries always have (gRFC A46). An Envoy has if it got so far as to apply anything, which its text says; one that
    finds a field against the rules ("Proto constraint validation failed") takes nothing of that response.
    """
    return kind is Kind.GRPC or error.startswith("Error adding/updating ")
