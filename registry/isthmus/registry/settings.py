"""Configuration files: YAML into a typed value, with references replaced, and errors that name file, line, path and remedy.

token: ${env:CONSUL_HTTP_TOKEN}
token: ${file:/run/secrets/consul-token}     # relative paths: to the folder of the configuration file
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from isthmus.registry.explain import Step, dotted, explain
from isthmus.registry.marked_yaml import Marked, MarkedYAMLError, parse_marked_yaml

MAX_BYTES = 1 << 20
"""Bytes of a configuration file, and of a file that `${file:...}` names."""

_REFERENCE = re.compile(r"\$\{(?:(env|file):([^${}]+)\})?")

T = TypeVar("T", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, the line, the path and what would be accepted."""


class AtError(Exception):
    """Something is wrong at a path of the configuration; raised by the checks that `parse_settings` calls."""

    def __init__(self, path: list[Step], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def read_settings(path: Path) -> bytes:
    """Read the text of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is larger than `MAX_BYTES`.

    """
    try:
        text = _read(path)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    return text


def parse_settings(
    text: bytes,
    path: Path,
    environment: Mapping[str, str],
    type_: type[T],
    *,
    check: Callable[[T], None],
    dec_hook: Callable[[type, Any], Any] | None = None,
    lines: bool = False,
) -> T:
    """Make a configuration text a value of a type; `check` raises `AtError` for what the type cannot express.

    Text in it has one line, unless `lines` says that it may have several.

    Raises:
        ConfigError: it says something that is not accepted.

    """
    try:
        marked = parse_marked_yaml(text)
    except MarkedYAMLError as e:
        raise ConfigError(f"{path}:{e.line}: {e.reason}") from None
    try:
        value = msgspec.convert(_resolve(marked, [], path.parent, environment, lines), type_, dec_hook=dec_hook)
        check(value)
    except AtError as e:
        steps, reason = e.path, e.reason
    except msgspec.ValidationError as e:
        steps, reason = explain(type_, marked, str(e))
    else:
        return value
    raise ConfigError(f"{path}:{marked.line_of(steps)}: {dotted(steps)}{': ' if steps else ''}{reason}")


def split_address(address: str, at: list[Step]) -> tuple[str, int]:
    """`host:port` in its parts.

    Raises:
        AtError: it is something else.

    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise AtError(at, f"{address!r}: expected host:port, such as 127.0.0.1:15010 or [::]:15010")
    if ":" in host and not (host[0] == "[" and host[-1] == "]"):
        raise AtError(at, f"{address!r}: an IPv6 address stands in brackets, such as [::]:15010")
    return host.strip("[]"), int(port)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _resolve(marked: Marked, at: list[Step], folder: Path, environment: Mapping[str, str], lines: bool) -> Any:
    """The value, with `${env:NAME}` and `${file:path}` replaced in every string."""
    if isinstance(marked.value, dict):
        return {k: _resolve(m, [*at, k], folder, environment, lines) for k, m in marked.inside.items()}
    if isinstance(marked.value, list):
        return [_resolve(m, [*at, i], folder, environment, lines) for i, m in marked.inside.items()]
    if not isinstance(marked.value, str):
        return marked.value
    text = _REFERENCE.sub(lambda m: _reference(m[1], m[2], at, folder, environment), marked.value)
    if not (text.replace("\n", "") if lines else text).isprintable():
        # A line end in a token would end the header that carries it. The text itself may be a secret.
        character = next(c for c in text if not c.isprintable())
        raise AtError(at, f"has the character U+{ord(character):04X}; expected one line of printable text")
    return text


def _reference(kind: str | None, name: str, at: list[Step], folder: Path, environment: Mapping[str, str]) -> str:
    if kind is None:
        raise AtError(at, "after ${ expected env:NAME} or file:path}")
    if not name.isprintable():
        raise AtError(at, f"${{{kind}:...}} has a character in its name that cannot be printed")
    if kind == "env":
        if name not in environment:
            raise AtError(at, f"the environment has no {name}")
        return environment[name]
    try:
        content = _read(folder / name)
        if len(content) > MAX_BYTES:
            raise AtError(at, f"{name} is larger than {MAX_BYTES} bytes")
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise AtError(at, f"cannot read {name}: {getattr(e, 'strerror', None) or 'not UTF-8 text'}") from None
