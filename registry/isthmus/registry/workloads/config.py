"""What an operator may say about workloads that register with the bridge. Pure."""

from __future__ import annotations

import msgspec


class WorkloadsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing so far: they are in the bridge's store, and say themselves what they are."""
