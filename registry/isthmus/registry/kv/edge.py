"""What a store can do, whichever it is: read and watch what is below a folder, and change one key if it is as expected. Pure."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import msgspec

from isthmus.registry.adapter import AdapterError, ReadStats

MAX_VALUE = 500 * 1024
"""Bytes of one value; Consul takes 512 KiB."""

MAX_ENTRIES = 100_000
"""Keys below one folder."""

MAX_KEY = 300

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~@-]{0,219}(/[A-Za-z0-9][A-Za-z0-9._:~@-]{0,219})*")
"""As file names go, too: 255 bytes, some of them for a suffix while it is being written."""


class StoreError(AdapterError):
    """The store could not be read or written. The text names it, and never contains a token or a password."""


class Entry(msgspec.Struct, frozen=True):
    """A value, and the version of it that `Store.put` and `Store.delete` compare."""

    value: bytes
    version: str


class View(msgspec.Struct, frozen=True):
    """Everything below a folder at one moment, by what follows the folder's slash. `cursor` is the store's position, for people
    and for the guard."""

    entries: Mapping[str, Entry]
    cursor: str = ""


class Uncounted:
    """Reads that nobody counts."""

    def read(self) -> None:
        """One request was answered with a usable result."""

    def failed(self) -> None:
        """One request failed."""

    def wake_up(self) -> None:
        """A watch came back because something changed."""

    def delayed(self) -> None:
        """Requests have begun to wait."""

    def alive(self) -> None:
        """The store has proved to be there and current."""

    def feed_is(self, state: str) -> None:
        """How it is with its pushing changes to us."""


UNCOUNTED = Uncounted()


class Store(Protocol):
    """Keys with values. Everything raises StoreError when the store cannot be read or written, or a key or value is not accepted.

    A key is one or more words with slashes between (`check_key`), below a prefix of the store's own. Two that change a key at
    once find out: only one of them has expected what was there. A change whose answer was lost may have been made; whoever tries
    again reads first.
    """

    where: str
    """What people call it: `consul at http://127.0.0.1:8500`."""

    async def get(self, key: str) -> Entry | None:
        """What a key has."""
        ...

    async def read(self, folder: str, stats: ReadStats = UNCOUNTED) -> View:
        """Everything below a folder, which need not exist."""
        ...

    def watch(self, folder: str, stats: ReadStats = UNCOUNTED) -> AsyncGenerator[View, None]:
        """Everything below a folder, at first and whenever it differs; until cancelled. States that come quickly may be skipped.

        Ends with an error as well when the store's position went back: what is missing then was not seen to go.
        """
        ...

    async def put(self, key: str, value: bytes, expected: str) -> str | None:
        """Write a key that has the expected version, or none for "". Returns its version, or None where it is otherwise."""
        ...

    async def delete(self, key: str, expected: str) -> bool:
        """Delete a key that has the expected version. Returns whether it had."""
        ...

    async def close(self) -> None:
        """End every connection."""
        ...


def check_key(key: str) -> None:
    """Refuse what is no key.

    Raises:
        StoreError: with the reason.

    """
    if len(key) > MAX_KEY or not _KEY.fullmatch(key) or key.endswith(".new"):
        raise StoreError(
            f"key {key[:MAX_KEY]!r}: expected letters, digits and . _ : ~ @ - (a letter or digit first), with slashes between"
        )


def check_value(where: str, key: str, value: bytes) -> None:
    """Refuse a value that is too large.

    Raises:
        StoreError: with the reason.

    """
    if len(value) > MAX_VALUE:
        raise StoreError(
            f"store {where}: {key}: {len(value)} bytes are more than the {MAX_VALUE} that a store has to take"
        )


def check_count(where: str, folder: str, count: int) -> None:
    """Refuse a folder with too many keys.

    Raises:
        StoreError: with the reason.

    """
    if count > MAX_ENTRIES:
        raise StoreError(f"store {where}: {folder}: {count} keys are more than the {MAX_ENTRIES} that are read")
