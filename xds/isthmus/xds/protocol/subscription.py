"""What a client wants of one type: all of it, or names. A plain value; the rules are the xDS protocol page's.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "How the client specifies what resources to return".
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

WILDCARD = "*"
NAMES_LIMIT = 100_000
"""Names of one type that one stream may ask for."""


class ProtocolError(Exception):
    """The client breaks the protocol in a way that cannot be answered; the stream is closed with this text."""


class Shift(msgspec.Struct, frozen=True):
    """What one request changed."""

    asked: frozenset[str] = frozenset()
    """Names that are owed an answer, whatever was sent before: the client may have forgotten them."""
    dropped: frozenset[str] = frozenset()
    """Names that are wanted no more."""
    widened: bool = False
    """Everything is wanted from now on."""
    repeated: bool = False
    """Everything was wanted and has been asked for once more."""
    narrowed: bool = False
    """Only names are wanted from now on."""


class Subscription:
    """The names and the wildcard of one type on one stream.

    `allows_wildcard` is a property of the type: a client of the others that names nothing wants nothing.
    """

    __slots__ = ("_allows_wildcard", "_began", "_named", "names", "wildcard")

    def __init__(self, allows_wildcard: bool) -> None:
        self.names: set[str] = set()
        self.wildcard = False
        self._allows_wildcard = allows_wildcard
        self._began = False
        self._named = False

    def wants(self, name: str) -> bool:
        """Whether a resource of that name is to be sent."""
        return self.wildcard or name in self.names

    def replace(self, resource_names: Collection[str]) -> Shift:
        """State of the world: a request lists everything that the client wants.

        Raises:
            ProtocolError: the list is longer than NAMES_LIMIT.

        """
        _check(len(resource_names))
        names = set(resource_names)
        # Legacy wildcard: no names, as long as this stream has never had any; later an empty list wants nothing.
        self._named |= bool(names)
        wildcard = self._allows_wildcard and (WILDCARD in names or not self._named)
        names.discard(WILDCARD)
        if names == self.names and wildcard == self.wildcard:
            return _NO_SHIFT  # an acknowledgement repeats the list, of thousands of names perhaps
        before, self.names = self.names, names
        was_wildcard, self.wildcard = self.wildcard, wildcard
        return Shift(
            asked=frozenset(names - before),
            dropped=frozenset() if wildcard else frozenset(before - names),
            widened=wildcard and not was_wildcard,
            narrowed=was_wildcard and not wildcard,
        )

    def change(self, subscribe: Collection[str], unsubscribe: Collection[str]) -> Shift:
        """Delta: a request tells what to add and what to take away. A name in both lists stays.

        Raises:
            ProtocolError: the names are more than NAMES_LIMIT.

        """
        left, asked = set(unsubscribe), set(subscribe)
        _check(len(self.names) + len(asked - self.names))
        # Legacy wildcard: the first request names nothing. It ends by unsubscribing from "*" alone, not by adding names.
        wildcard = self._allows_wildcard and (WILDCARD in asked or not (self._began or subscribe))
        self._began = True
        asked.discard(WILDCARD)
        was_wildcard = self.wildcard
        self.wildcard = wildcard or (was_wildcard and WILDCARD not in left)
        # Phantom names are ignored; a name that the wildcard still covers is answered once more.
        left = (left & self.names) - asked
        self.names -= left
        self.names |= asked
        return Shift(
            asked=frozenset(asked | left if self.wildcard else asked),
            dropped=frozenset() if self.wildcard else frozenset(left),
            widened=wildcard and not was_wildcard,
            repeated=wildcard and was_wildcard,
            narrowed=was_wildcard and not self.wildcard,
        )


_NO_SHIFT = Shift()


def _check(names: int) -> None:
    if names > NAMES_LIMIT:
        raise ProtocolError(f"{names} resource names of one type on one stream; at most {NAMES_LIMIT} are accepted")
