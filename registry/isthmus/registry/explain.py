"""What msgspec has to say about a configuration, in the words of the file: where, what was expected, what is accepted."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from isthmus.registry.marked_yaml import Marked

Step = str | int

_MESSAGE = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_OWN = re.compile(r"(\w+)(?:: | (?=['\"]))")
"""What a type says for itself about one of its fields: `address 'ftp://x': expected ...`."""
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a mapping"),
    (type(None), "nothing"),
)


def explain(root: type[msgspec.Struct], marked: Marked, message: str) -> tuple[list[Step], str]:
    """The path and the reason in a message of `msgspec.ValidationError`.

    What was found is repeated where it is one of a few words or a number, never where it is text: that may be a secret.
    """
    match = _MESSAGE.fullmatch(message)
    reason, at = (match["reason"], match["path"] or "") if match else (message, "")
    steps: list[Step] = [m[1] if m[1] is not None else int(m[2]) for m in _STEP.finditer(at)]
    expected = _type_at(root, steps, marked)
    if unknown := _UNKNOWN.fullmatch(reason):
        accepted = _fields(expected)
        close = difflib.get_close_matches(unknown[1], accepted, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return [*steps, unknown[1]], f"unknown field; {hint}accepted: {', '.join(accepted)}"
    if missing := _MISSING.fullmatch(reason):
        hint = f"; expected {_one_of(_tags(expected))}" if missing[1] == "type" else ""
        return steps, f"{missing[1]} is missing{hint}"
    if reason.startswith(("Expected", "Invalid value", "Invalid enum value")):
        return steps, f"expected {_words(expected)}, got {_found(expected, _value_at(marked, steps))}"
    own = _OWN.match(reason)
    if own and own[1] in _fields(expected):
        return [*steps, own[1]], reason[own.end() :]
    return steps, reason


def dotted(steps: Iterable[Step]) -> str:
    """A path as people write it: `registries[0].address`."""
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")


def _type_at(root: type[msgspec.Struct], steps: Sequence[Step], marked: Marked) -> inspect.Type:
    """The type that is expected at a path; the tag of a union counts as a field of it."""
    node: inspect.Type = inspect.type_info(root)
    for i, step in enumerate(steps):
        if isinstance(node, inspect.UnionType):
            if step == "type":
                return inspect.LiteralType(tuple(_tags(node)))
            kind = _value_at(marked, [*steps[:i], "type"])
            node = next(t for t in node.types if isinstance(t, inspect.StructType) and t.tag == kind)
        if isinstance(node, inspect.StructType):
            node = next(f.type for f in node.fields if f.encode_name == step)
        elif isinstance(node, inspect.VarTupleType):
            node = node.item_type
    if isinstance(node, inspect.UnionType):
        kind = _value_at(marked, [*steps, "type"])
        node = next((t for t in node.types if isinstance(t, inspect.StructType) and t.tag and t.tag == kind), node)
    return node


def _value_at(marked: Marked, steps: Sequence[Step]) -> Any:
    """The value as it is written, so before `${...}` was replaced."""
    node: Marked | None = marked
    for step in steps:
        node = node.inside.get(step) if node else None
    return node.value if node else None


def _tags(node: inspect.Type) -> list[str]:
    types = node.types if isinstance(node, inspect.UnionType) else ()
    return sorted(str(t.tag) for t in types if isinstance(t, inspect.StructType) and t.tag)


def _fields(node: inspect.Type) -> list[str]:
    if isinstance(node, inspect.UnionType) and not _tags(node):
        return [name for t in node.types if isinstance(t, inspect.StructType) for name in _fields(t)]
    if not isinstance(node, inspect.StructType):
        return ["type"]
    return sorted([f.encode_name for f in node.fields] + ([node.tag_field] if node.tag_field else []))


def _words(node: inspect.Type) -> str:
    """What a type accepts."""
    match node:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(node.ge, node.le)}"
        case inspect.FloatType():
            return f"a number{_range(node.ge, node.le)}"
        case inspect.NoneType():
            return "nothing"
        case inspect.LiteralType():
            return _one_of(node.values)
        case inspect.EnumType():
            return _one_of(member.value for member in node.cls)
        case inspect.StructType():
            return f"a mapping with {', '.join(_fields(node))}"
        case inspect.UnionType() if not _tags(node):
            return " or ".join(_words(t) for t in node.types)
        case inspect.UnionType():
            return f"a mapping with type ({_one_of(_tags(node))})"
        case inspect.DictType():
            return f"a mapping in which each entry is {_words(node.value_type)}"
        case inspect.VarTupleType():
            return "a list with at least one entry" if node.min_length else "a list"
        case _:
            return "text"


def _one_of(values: Iterable[object]) -> str:
    *first, last = (str(v) for v in values)
    return f"{', '.join(first)} or {last}" if first else last


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least is not None else ""


def _found(expected: inspect.Type, value: Any) -> str:
    kind = next(words for type_, words in _KINDS if isinstance(value, type_))
    if isinstance(expected, inspect.LiteralType | inspect.EnumType) and isinstance(value, str):
        return repr(value[:100])
    types = expected.types if isinstance(expected, inspect.UnionType) else (expected,)
    if any(isinstance(t, inspect.IntType | inspect.FloatType) for t in types) and isinstance(value, int | float):
        return str(value).lower() if math.isfinite(value) else "no finite number"
    if isinstance(expected, inspect.VarTupleType) and value == []:
        return "an empty one"
    return f"{kind} (quote it)" if isinstance(expected, inspect.StrType) and isinstance(value, int | float) else kind
