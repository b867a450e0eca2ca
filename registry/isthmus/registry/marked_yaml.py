"""YAML to plain values that remember their lines, within limits.

Built from libyaml's event stream rather than its node tree: composing nodes recurses in C, so that deep nesting crashes the
interpreter, and nodes share aliased content without counting it, so that a few lines can stand for billions of values. Here
depth and the *expanded* number of values are bounded, repeated keys are refused (plain YAML silently keeps the last one), and
only the core types exist: what looks like a date is a string. `<<` merges mappings, explicit keys win.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
import yaml
from yaml.constructor import SafeConstructor
from yaml.events import (
    AliasEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

MAX_DEPTH = 64
MAX_VALUES = 4_000_000

Value: TypeAlias = Any
"""None, bool, int, float, str, list[Value] or dict[str, Value]."""

_TAG = "tag:yaml.org,2002:"
_CONVERTED = frozenset({"null", "bool", "int", "float"})


class MarkedYAMLError(Exception):
    """The text is not acceptable YAML; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class Marked(msgspec.Struct, frozen=True):
    """A value, the line where it begins, and the same for what is inside it (by key or index)."""

    value: Value
    line: int
    inside: dict[str | int, Marked] = {}
    size: int = 1

    def line_of(self, path: list[str | int]) -> int:
        """The line of the deepest value that the path reaches."""
        node = self
        for step in path:
            below = node.inside.get(step)
            if below is None:
                break
            node = below
        return node.line


def parse_marked_yaml(text: bytes) -> Marked:
    """Parse one YAML document; nothing at all is the value None on line 1.

    Raises:
        MarkedYAMLError: a syntax error, a repeated key, a key that is no string, more than one document, too deep, too large.

    """
    try:
        text.decode()
        return _Builder(iter(yaml.parse(text, Loader=yaml.CSafeLoader))).document()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        context = f" {e.context}" if e.context else ""
        # The end of the text is one line further for libyaml than for an editor.
        line = min(mark.line + 1 if mark else 1, max(1, text.count(b"\n") + (not text.endswith(b"\n"))))
        raise MarkedYAMLError(line, f"not YAML: {e.problem}{context}") from None
    except yaml.reader.ReaderError as e:
        line = text.count(b"\n", 0, e.position) + 1
        raise MarkedYAMLError(line, f"not YAML: the character {e.character:#x} is not allowed") from None
    except UnicodeDecodeError as e:
        raise MarkedYAMLError(text.count(b"\n", 0, e.start) + 1, "not UTF-8 text") from None


class _Builder:
    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, Marked] = {}
        self._resolver = Resolver()
        self._constructor = SafeConstructor()

    def document(self) -> Marked:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Marked(None, 1)
        root = self._value(next(self._events), 0)
        next(self._events)  # the document's end
        more = next(self._events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise MarkedYAMLError(_line(more), "a second YAML document begins; one per file")
        return root

    def _value(self, event: Event, depth: int) -> Marked:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise MarkedYAMLError(line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            anchored = self._anchors.get(event.anchor or "")
            if anchored is None:
                raise MarkedYAMLError(line, f"*{event.anchor} stands before or inside its own &{event.anchor}")
            return Marked(anchored.value, line, anchored.inside, anchored.size)
        if isinstance(event, ScalarEvent):
            marked = Marked(self._scalar(event, line), line)
        elif isinstance(event, SequenceStartEvent):
            marked = self._sequence(line, depth)
        elif isinstance(event, MappingStartEvent):
            marked = self._mapping(line, depth)
        else:
            raise MarkedYAMLError(line, f"unexpected {type(event).__name__}")
        if event.anchor is not None:
            self._anchors[event.anchor] = marked
        return marked

    def _sequence(self, line: int, depth: int) -> Marked:
        items: list[Marked] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._value(event, depth + 1)
            size = _grown(size, item)
            items.append(item)
        return Marked([i.value for i in items], line, dict(enumerate(items)), size)

    def _mapping(self, line: int, depth: int) -> Marked:
        inside: dict[str | int, Marked] = {}
        merged: list[Marked] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            value = self._value(next(self._events), depth + 1)
            size = _grown(size, value)
            if isinstance(event, ScalarEvent) and event.implicit[0] and event.value == "<<":
                merged.append(value)
                continue
            if not isinstance(key.value, str):
                raise MarkedYAMLError(key.line, f"the key {key.value!r} is not a string; quote it")
            if key.value in inside:
                first = inside[key.value].line
                raise MarkedYAMLError(key.line, f"the key {key.value!r} stands twice, first on line {first}")
            inside[key.value] = value
        for source in merged:
            for mapping in source.inside.values() if isinstance(source.value, list) else [source]:
                if not isinstance(mapping.value, dict):
                    raise MarkedYAMLError(source.line, "<< takes a mapping or a list of mappings")
                inside = {**mapping.inside, **inside}
        return Marked({k: m.value for k, m in inside.items()}, line, inside, size)

    def _scalar(self, event: ScalarEvent, line: int) -> Value:
        resolved: str = self._resolver.resolve(ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        tag = event.tag or resolved
        kind = tag.removeprefix(_TAG)
        if kind not in _CONVERTED:
            if event.tag not in (None, "!", f"{_TAG}str"):
                raise MarkedYAMLError(line, f"the tag {event.tag} is not known here")
            return event.value
        try:
            return self._constructor.construct_object(ScalarNode(tag, event.value))
        except (ValueError, KeyError):
            raise MarkedYAMLError(line, f"{event.value!r} is not a valid {kind}") from None


def _grown(size: int, part: Marked) -> int:
    size += part.size
    if size > MAX_VALUES:
        raise MarkedYAMLError(part.line, f"more than {MAX_VALUES} values, aliases counted as often as they are used")
    return size


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
