"""A layout that the operator describes: a pattern for the key and paths into the JSON of the value. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from isthmus.registry.etcd.layouts import (
    Endpoint,
    Found,
    Layout,
    UnreadableError,
    decode,
    scalars,
    split_address,
    text,
    whole,
)

Step = str | int
Path = tuple[Step, ...]

MAX_INSTANCES = 10_000
"""Instances that one key may announce."""

FIELDS = ("service", "id", "address", "port", "protocol", "weight")

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)(\.\.\.)?\}")
_STEP = re.compile(r"""\.?([A-Za-z0-9_@-]+)|\[(\d{1,6})\]|\["([^"]*)"\]|\['([^']*)'\]""")

_json = msgspec.json.Decoder(object)


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the operator's own keys and values are to be read.

    `key` is matched against what follows the prefix: `{name}` stands for one segment, `{name...}` for any text. What is called
    `service`, `id`, `address`, `port`, `protocol` or `weight` is used as such, `{_}` is ignored, any other name becomes a label.
    The other fields are paths into the value's JSON, such as `$.net.port` or `hosts[0]["ip v4"]`, and win over the key.

    Raises:
        ValueError: the pattern or a path cannot be understood, or nothing says what a service or its address is.

    """

    key: str = "{service}/{id...}"
    value: Literal["json", "text"] = "json"
    """With `text` the value is `host:port`, and there are no paths."""
    each: str = ""
    """Path of a list in which every element is an instance; the other paths begin at the element."""
    service: str = ""
    id: str = ""
    address: str = ""
    """`host:port`; or the host alone when there is a `port`."""
    port: str = ""
    protocol: str = ""
    weight: str = ""
    labels: str = ""
    """Path of an object whose text, numbers and truth values become labels."""
    tags: str = ""
    """Path of a list of text, which conventions read (docs/conventions.md)."""

    def __post_init__(self) -> None:
        named = _pattern(self.key).groupindex
        paths = [name for name in (*FIELDS, "labels", "tags", "each") if getattr(self, name)]
        for name in paths:
            _path(name, getattr(self, name))
        if self.value == "text" and paths:
            raise ValueError(f"template: with `value: text` there is no JSON that {paths[0]} could point into")
        if "service" not in named and not self.service:
            raise ValueError("template: nothing says what a service is: `{service}` in `key`, or a path `service`")
        if "address" not in named and not self.address and self.value == "json":
            raise ValueError("template: nothing says what an address is: `{address}` in `key`, or a path `address`")


def compile_template(template: Template) -> Layout:
    """The layout that a template describes."""
    pattern = _pattern(template.key)
    each = _path("each", template.each)
    paths = {
        name: _path(name, getattr(template, name)) for name in (*FIELDS, "labels", "tags") if getattr(template, name)
    }

    def layout(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
        matched = pattern.fullmatch(path)
        if matched is None:
            raise UnreadableError(f"the key does not match the pattern {template.key!r}")
        of_key = {name: said for name, said in matched.groupdict().items() if name != "_"}
        if template.value == "text":
            return (_found({"address": text(value)}, of_key, {}, several=False),)
        root = decode(_json, value)
        elements = _at(root, each) if each else [root]
        if not isinstance(elements, list):
            raise UnreadableError(f"each: there is no list at {template.each}")
        if len(elements) > MAX_INSTANCES:
            raise UnreadableError(f"each: {len(elements)} instances in one key; at most {MAX_INSTANCES} are read")
        return tuple(_found_in(element, paths, of_key, several=len(elements) > 1) for element in elements)

    return layout


def _found_in(element: object, paths: Mapping[str, Path], of_key: Mapping[str, str], *, several: bool) -> Found:
    said = {name: _scalar(name, _at(element, paths[name])) for name in FIELDS if name in paths}
    labels = scalars(_at(element, paths["labels"])) if "labels" in paths else {}
    found = _found({name: value for name, value in said.items() if value}, of_key, labels, several=several)
    tags = _at(element, paths["tags"]) if "tags" in paths else None
    if tags is None:
        return found
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UnreadableError("tags: expected a list of text")
    return msgspec.structs.replace(found, tags=tuple(tags))


def _found(of_value: Mapping[str, str], of_key: Mapping[str, str], labels: dict[str, str], *, several: bool) -> Found:
    said = {**of_key, **of_value}
    if not said.get("service"):
        raise UnreadableError("service: nothing is there")
    address, port = said.get("address", ""), said.get("port", "")
    if not address:
        raise UnreadableError("address: nothing is there")
    if port:
        number = whole(port, -1)
        if not 1 <= number <= 65535:
            raise UnreadableError(f"port {port[:20]!r}: expected 1 to 65535")
        endpoint = Endpoint(address.strip("[]"), number)
    else:
        endpoint = split_address(address)
    endpoint = msgspec.structs.replace(endpoint, protocol=said.get("protocol", "").lower())
    labels = {name: value for name, value in of_key.items() if name not in FIELDS} | labels
    name = said.get("id", "") if several else ""
    return Found(said["service"], (endpoint,), name=name, labels=labels, weight=whole(said.get("weight"), 1))


def _scalar(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableError(f"{name}: expected text or a number, not {type(value).__name__}")
    return str(value)


def _at(root: object, path: Path) -> object:
    """What is at a path; None where the path leads nowhere."""
    at = root
    for step in path:
        if isinstance(step, str):
            at = at.get(step) if isinstance(at, dict) else None
        else:
            at = at[step] if isinstance(at, list) and step < len(at) else None
    return at


def _pattern(written: str) -> re.Pattern[str]:
    names: set[str] = set()
    out, position = "", 0
    for found in _PLACEHOLDER.finditer(written):
        literal = written[position : found.start()]
        if names and not literal:
            raise ValueError(f"template: key {written!r}: two placeholders need something between them")
        name, anything = found[1], bool(found[2])
        if name in names and name != "_":
            raise ValueError(f"template: key {written!r}: {{{name}}} is there twice")
        out += _literal(written, literal)
        inner = ".+" if anything else "[^/]+"
        out += f"(?:{inner})" if name == "_" else f"(?P<{name}>{inner})"
        names.add(name)
        position = found.end()
    out += _literal(written, written[position:])
    return re.compile(out, re.DOTALL)


def _literal(written: str, literal: str) -> str:
    if "{" in literal or "}" in literal:
        raise ValueError(f"template: key {written!r}: a placeholder is {{name}} or {{name...}}, in lower case")
    return re.escape(literal)


def _path(name: str, written: str) -> Path:
    steps: list[Step] = []
    position = 1 if written.startswith("$") else 0
    while position < len(written):
        found = _STEP.match(written, position)
        if found is None:
            raise ValueError(f"template: {name}: {written!r} is no path such as $.net.port or hosts[0]")
        plain, index, double, single = found.groups()
        steps.append(int(index) if index is not None else plain or double or single or "")
        position = found.end()
    return tuple(steps)
