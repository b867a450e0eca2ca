"""isthmus.yaml: read once, into a frozen value. The only place that reads the environment.

registries:                                   # in order of precedence
- name: consul
  type: consul
  address: http://127.0.0.1:8500
  token: ${env:CONSUL_HTTP_TOKEN}             # or ${file:/run/secrets/consul-token}
- {name: local, type: file, path: services/}  # relative to this file
mesh: {domain: mesh, outbound_address: 127.0.0.1, outbound_port: 15001}
xds: {address: "127.0.0.1:15010"}
http: {address: "127.0.0.1:15014"}
guard: {hold: 300, shrink: 0.5}
sync_timeout: 30
state_dir: /var/lib/isthmus
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.file import FileConfig
from isthmus.registry.guard import GuardRules
from isthmus.registry.marked_yaml import Marked, MarkedYAMLError, parse_marked_yaml

MAX_BYTES = 1 << 20
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, the line, the path and what would be accepted."""


class ConsulRegistry(
    ConsulConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="consul"
):
    """A Consul to read. `name` is the origin's name everywhere it is shown."""

    name: str


class FileRegistry(FileConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="file"):
    """A file or a directory of files to read."""

    name: str


Registry = ConsulRegistry | FileRegistry


class MeshConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the whole mesh: see `isthmus.xds.translate.mesh.MeshSettings`. `virtual_ips` is the range of the
    addresses at which TCP services are reached."""

    domain: str = "mesh"
    outbound_address: str = "127.0.0.1"
    outbound_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 15001
    virtual_ips: str = "127.64.0.0/10"


class ListenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to listen, `host:port`; port 0 takes any."""

    address: str


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of isthmus.yaml. `sync_timeout` is in seconds: how long the first push waits for a registry."""

    registries: Annotated[tuple[Registry, ...], msgspec.Meta(min_length=1)]
    mesh: MeshConfig = MeshConfig()
    xds: ListenConfig = ListenConfig("127.0.0.1:15010")
    http: ListenConfig = ListenConfig("127.0.0.1:15014")
    guard: GuardRules = GuardRules()
    sync_timeout: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    state_dir: str = "/var/lib/isthmus"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or says something that is not accepted.

    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    return parse(text, path, environment)


def parse(text: bytes, path: Path, environment: Mapping[str, str]) -> Config:
    """Read a configuration text; relative paths in it are relative to the folder of `path`.

    Raises:
        ConfigError: it says something that is not accepted.

    """
    try:
        marked = parse_marked_yaml(text)
    except MarkedYAMLError as e:
        raise ConfigError(f"{path}:{e.line}: {e.reason}") from None
    if not isinstance(marked.value, dict):
        raise ConfigError(f"{path}: expected a mapping with `registries`, got {type(marked.value).__name__}")
    try:
        config = msgspec.convert(_resolve(marked.value, [], path.parent, environment), Config)
        _check(config)
    except _AtError as e:
        raise ConfigError(f"{path}:{marked.line_of(e.path)}: {_dotted(e.path)}: {e.reason}") from None
    except msgspec.ValidationError as e:
        raise ConfigError(_explain(path, marked, str(e))) from None
    return _anchored(config, path.parent)


class _AtError(Exception):
    """Something is wrong at a path."""

    def __init__(self, path: list[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def _resolve(value: Any, at: list[str | int], folder: Path, environment: Mapping[str, str]) -> Any:
    """Replace `${env:NAME}` and `${file:path}` in every string."""
    if isinstance(value, dict):
        return {k: _resolve(v, [*at, k], folder, environment) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, [*at, i], folder, environment) for i, v in enumerate(value)]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda m: _reference(m[1], m[2], at, folder, environment), value)
    return value


def _reference(kind: str, name: str, at: list[str | int], folder: Path, environment: Mapping[str, str]) -> str:
    if kind == "env":
        if name not in environment:
            raise _AtError(at, f"the environment has no {name}")
        return environment[name]
    try:
        return (folder / name).read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise _AtError(at, f"cannot read {name}: {getattr(e, 'strerror', None) or 'not text'}") from None


def _check(config: Config) -> None:
    seen: set[str] = set()
    for i, registry in enumerate(config.registries):
        if not _NAME.fullmatch(registry.name):
            raise _AtError(
                ["registries", i, "name"],
                f"{registry.name!r}: expected lower-case letters, digits and dashes, at most 63",
            )
        if registry.name in seen:
            raise _AtError(["registries", i, "name"], f"{registry.name!r} is the name of another registry")
        seen.add(registry.name)
    if not _DOMAIN.fullmatch(config.mesh.domain):
        raise _AtError(
            ["mesh", "domain"], f"{config.mesh.domain!r}: expected a lower-case domain such as mesh.example.com"
        )
    for section, listen in (("xds", config.xds), ("http", config.http)):
        split_address(listen.address, [section, "address"])


def split_address(address: str, at: list[str | int]) -> tuple[str, int]:
    """`host:port` in its parts."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise _AtError(at, f"{address!r}: expected host:port, such as 127.0.0.1:15010 or [::]:15010")
    return host.strip("[]"), int(port)


def _anchored(config: Config, folder: Path) -> Config:
    """Paths in the file are relative to the file."""
    registries = tuple(
        msgspec.structs.replace(r, path=str(folder / r.path)) if isinstance(r, FileRegistry) else r
        for r in config.registries
    )
    return msgspec.structs.replace(config, registries=registries, state_dir=str(folder / config.state_dir))


_TYPE_MESSAGE = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def _explain(path: Path, marked: Marked, message: str) -> str:
    """msgspec's message as a place in the file and a sentence."""
    match = _TYPE_MESSAGE.fullmatch(message)
    reason, at = (match["reason"], match["path"] or "") if match else (message, "")
    steps: list[str | int] = [m[1] if m[1] is not None else int(m[2]) for m in _STEP.finditer(at)]
    unknown = _UNKNOWN.fullmatch(reason)
    if unknown:
        steps.append(unknown["name"])
        accepted = _fields(steps[:-1], marked)
        close = difflib.get_close_matches(unknown["name"], accepted, 1)
        reason = f"unknown field; {f'did you mean {close[0]}? ' if close else ''}accepted: {', '.join(accepted)}"
    else:
        reason = reason[:1].lower() + reason[1:].replace("`", "")
    return f"{path}:{marked.line_of(steps)}: {_dotted(steps)}{': ' if steps else ''}{reason}"


def _fields(steps: list[str | int], marked: Marked) -> list[str]:
    """Names of the fields that the object at a path may have."""
    struct: type[msgspec.Struct]
    match steps:
        case ["registries", int(i)]:
            kind = marked.inside["registries"].inside[i].value.get("type")
            struct = next((r for r in (ConsulRegistry, FileRegistry) if r.__struct_config__.tag == kind), FileRegistry)
            return sorted(["type", *_names(struct)])
        case ["mesh"]:
            struct = MeshConfig
        case ["xds"] | ["http"]:
            struct = ListenConfig
        case ["guard"]:
            struct = GuardRules
        case _:
            struct = Config
    return sorted(_names(struct))


def _names(struct: type[msgspec.Struct]) -> Iterable[str]:
    return (f.encode_name for f in msgspec.structs.fields(struct))


def _dotted(steps: list[str | int]) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
