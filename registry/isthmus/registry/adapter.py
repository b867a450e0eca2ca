"""The left edge: what every registry adapter does, and the contract that it keeps.

`tests/contract/` holds the suite that each adapter passes.

1. The first snapshot is yielded only when the initial listing is complete. A world half read is never shown.
2. Every later snapshot is whole as well. What is absent from it is gone, unless `Snapshot.doubt` or `Snapshot.doubts` says why
   it may not be.
3. On any failure to read, nothing is yielded and `AdapterError` is raised: stale beats partial. The supervisor keeps the last
   snapshot, waits, and calls `snapshots()` again, which begins with a complete listing.
4. An object that cannot be understood is quarantined by name, with its reason, and the others go on.
5. Cancelling returns within 100 ms, also from inside a blocking read.
6. Equal content gives equal values: `changed` may name a key whose service turned out the same, never miss one that differs.
7. `listing()` reads the registry and nothing that an iteration remembers: it is how a watch that lost something is found out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from isthmus.registry.model import Origin, Snapshot


class AdapterError(Exception):
    """The registry could not be read. The text is for the operator: what was asked of whom, and what came back.

    Never contains a token, a password or a URL with credentials.
    """


class ReadStats(Protocol):
    """Where an adapter counts its reads; the bridge turns them into metrics."""

    def read(self) -> None:
        """One request was answered with a usable result."""

    def failed(self) -> None:
        """One request failed."""

    def wake_up(self) -> None:
        """A watch or blocking query came back because something changed."""

    def delayed(self) -> None:
        """Requests have begun to wait, because there were as many in the last minute as are allowed."""

    def alive(self) -> None:
        """The registry has just proved to be there and current, whether or not anything changed."""

    def feed_is(self, state: str) -> None:
        """How it is with the registry's pushing changes to us; only registries that are configured to do so say anything."""


class Adapter(Protocol):
    """One configured registry."""

    origin: Origin

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """Everything the origin knows: first when the initial listing is complete, then at each change.

        Runs until cancelled. May be called again after it raised; each call begins anew.

        Raises:
            AdapterError: the registry could not be read.

        """
        ...

    async def listing(self) -> Snapshot:
        """One complete listing, read anew and beside any iteration, to audit what its watches have brought.

        Raises:
            AdapterError: the registry could not be read.

        """
        ...
