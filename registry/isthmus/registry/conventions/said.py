"""What the tags and the metadata of one instance say, and the sheet on which conventions note it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from isthmus.registry.model import Locality, Protocol

MAX_WEIGHT = 100_000
MAX_REMARKS = 8
"""Remarks that are kept about one instance."""

Remark = tuple[str, str]
"""What it is about, and why it is not followed."""


class MorePort(msgspec.Struct, frozen=True, gc=False):
    """A port beside the registered one: its name, this instance's number, its protocol."""

    name: str
    number: int
    protocol: Protocol


class DeclaredPort(msgspec.Struct, frozen=True, gc=False):
    """A port as Isthmus' agent declares it: its name, the number that callers name, this instance's number, its protocol."""

    name: str
    number: int
    here: int
    protocol: Protocol


class Said(msgspec.Struct, frozen=True):
    """What one instance says by the configured conventions, beside its labels.

    `protocol` is None, and `own_port`, `exposed`, `share` are 0, and `weight` is None where nothing is said.
    """

    labels: Mapping[str, str] = {}
    protocol: Protocol | None = None
    own_port: int = 0
    """Where it listens, whatever port it was registered with."""
    exposed: int = 0
    """The port inside its container: what callers name where the instances share no number."""
    weight: int | None = None
    usual_weight: int = 1
    """The weight of another instance of the service that says none."""
    share: float = 0.0
    """Its part of the service's requests, of 1."""
    zone: str = ""
    more: tuple[MorePort, ...] = ()
    declared: tuple[DeclaredPort, ...] = ()
    """All of its ports, which stand in place of those that its registry tells."""
    declared_weight: int | None = None
    """Its weight, whatever its registry tells."""
    place: Locality | None = None
    applied: tuple[str, ...] = ()
    """The conventions of other tools by which any of it is said."""
    unusable: str = ""
    """Why it cannot be called at all."""
    remarks: tuple[Remark, ...] = ()

    @property
    def shapes(self) -> bool:
        """Whether anything but labels and the first port's protocol and number is said."""
        some = self.own_port or self.weight is not None or self.share or self.zone or self.more
        return bool(some or self.declared or self.declared_weight is not None or self.place)


class Sheet(msgspec.Struct):
    """What conventions note while they read. Each keeps to what those before it said; `tags` are those that none has taken."""

    id: str
    port: int
    tags: list[str]
    meta: dict[str, str]
    labels: dict[str, str] = {}
    plain: set[str] = set()
    """Tags that are no pairs, whatever they look like."""
    protocol: Protocol | None = None
    own_port: int = 0
    exposed: int = 0
    weight: int | None = None
    usual_weight: int = 1
    share: float = 0.0
    zone: str = ""
    more: list[MorePort] = []
    declared: tuple[DeclaredPort, ...] = ()
    declared_weight: int | None = None
    place: Locality | None = None
    unusable: str = ""
    remarks: list[Remark] = []

    @property
    def noted(self) -> tuple[object, ...]:
        """What was noted so far: the same as before, if nothing was since."""
        kept = (self.tags, self.meta, self.labels, self.plain, self.more, self.remarks)
        said = (self.protocol, self.own_port, self.exposed, self.weight, self.share, self.zone, self.unusable)
        return *map(len, kept), *said

    def remark(self, about: str, reason: str) -> None:
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append((clip(about), reason))

    def says_protocol(self, protocol: Protocol) -> None:
        self.protocol = self.protocol or protocol

    def says_weight(self, about: str, text: str, usual: int = 1) -> None:
        """The text of a weight; what is no weight is remarked and not followed."""
        weight = whole(text)
        if weight is None or weight > MAX_WEIGHT:
            self.remark(about, f"{clip(text)!r} is not a whole number, 0 to {MAX_WEIGHT}; not followed")
        elif self.weight is None:
            self.weight, self.usual_weight = weight, usual

    def port_in(self, about: str, text: str) -> int:
        """The port number in a text; 0, with a remark, where there is none."""
        number = whole(text)
        if number is not None and 1 <= number <= 65535:
            return number
        self.remark(about, f"{clip(text)!r} is not a port number, 1 to 65535; not followed")
        return 0

    def spoken(self, key: str) -> str:
        """What the metadata, or else a tag `key=value`, has under a key."""
        if key in self.meta:
            return self.meta[key]
        values = [tag.partition("=")[2] for tag in self.tags if tag.startswith(f"{key}=")]
        return values[-1] if values else ""


def whole(text: str) -> int | None:
    """A whole number in ASCII digits, at most nine; None where there is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def clip(text: str) -> str:
    """At most 100 characters, for an error text."""
    return text if len(text) <= 100 else text[:100] + "…"


def port_name(protocol: Protocol, name: str) -> str:
    """A port's name by Istio's convention, from whatever another tool calls it."""
    return f"{protocol.value}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"[:63].rstrip("-")
