"""What a client wants of one type: all of it, or names. A plain value; the rules are the xDS protocol page's.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, "How the client specifies what resources to return".
"""

from __future__ import annotations

import weakref
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
    before: frozenset[str] = frozenset()
    """Names that were wanted until now and still are."""
    widened: bool = False
    """Everything is wanted from now on."""
    repeated: bool = False
    """Everything was wanted and has been asked for once more."""
    narrowed: bool = False
    """Only names are wanted from now on."""


class Subscription:
    """The names and the wildcard of one type on one stream.

    `allows_wildcard` is a property of the type: a client of the others that names nothing wants nothing. `allows_legacy` is one
    of the client: whether naming nothing at first means everything. Streams that want the same names share one set of them.
    """

    __slots__ = ("_allows_legacy", "_allows_wildcard", "_began", "_named", "names", "wildcard")

    def __init__(self, allows_wildcard: bool, allows_legacy: bool = True) -> None:
        self.names: frozenset[str] = _NO_NAMES
        self.wildcard = False
        self._allows_wildcard = allows_wildcard
        self._allows_legacy = allows_wildcard and allows_legacy
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
        names = frozenset(resource_names)
        # Legacy wildcard: no names, as long as this stream has never had any; later an empty list wants nothing.
        self._named |= bool(names)
        wildcard = (self._allows_wildcard and WILDCARD in names) or (self._allows_legacy and not self._named)
        names -= _WILDCARDS
        if names == self.names and wildcard == self.wildcard:
            return NO_SHIFT  # an acknowledgement repeats the list, of thousands of names perhaps
        before, self.names = self.names, _shared(names)
        was_wildcard, self.wildcard = self.wildcard, wildcard
        return Shift(
            asked=names - before,
            dropped=_NO_NAMES if wildcard or was_wildcard else before - names,
            widened=wildcard and not was_wildcard,
            before=before if wildcard else before & names,
            narrowed=was_wildcard and not wildcard,
        )

    def change(self, subscribe: Collection[str], unsubscribe: Collection[str]) -> Shift:
        """Delta: a request tells what to add and what to take away. A name in both lists stays.

        Raises:
            ProtocolError: the names are more than NAMES_LIMIT.

        """
        began, self._began = self._began, True
        if began and not subscribe and not unsubscribe:
            return NO_SHIFT
        left, asked = frozenset(unsubscribe), frozenset(subscribe)
        _check(len(self.names) + len(asked - self.names))
        # Legacy wildcard: the first request names nothing. It ends by unsubscribing from "*" alone, not by adding names.
        wildcard = (self._allows_wildcard and WILDCARD in asked) or (self._allows_legacy and not (began or subscribe))
        asked -= _WILDCARDS
        was_wildcard = self.wildcard
        self.wildcard = wildcard or (was_wildcard and WILDCARD not in left)
        # Phantom names are ignored; a name that the wildcard still covers is answered once more.
        left = (left & self.names) - asked
        before = self.names - left
        if left or asked:
            self.names = _shared(before | asked)
        return Shift(
            asked=asked | left if self.wildcard else asked,
            dropped=_NO_NAMES if self.wildcard else left,
            widened=wildcard and not was_wildcard,
            before=before,
            repeated=wildcard and was_wildcard,
            narrowed=was_wildcard and not self.wildcard,
        )


_NO_NAMES: frozenset[str] = frozenset()
_WILDCARDS = frozenset({WILDCARD})
NO_SHIFT = Shift()


_KNOWN: weakref.WeakValueDictionary[int, frozenset[str]] = weakref.WeakValueDictionary()
"""Sets of names that some stream wants, by hash. Five thousand proxies that want the same five thousand names keep one."""


def _shared(names: frozenset[str]) -> frozenset[str]:
    known = _KNOWN.setdefault(hash(names), names)
    return known if known == names else names


def _check(names: int) -> None:
    if names > NAMES_LIMIT:
        raise ProtocolError(f"{names} resource names of one type on one stream; at most {NAMES_LIMIT} are accepted")
