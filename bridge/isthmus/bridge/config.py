"""isthmus.yaml: read once, into a frozen value. The only place that reads the environment.

registries:                                   # in order of precedence
- name: consul
  type: consul
  address: http://127.0.0.1:8500
  token: ${env:CONSUL_HTTP_TOKEN}             # or ${file:/run/secrets/consul-token}
- {name: local, type: file, path: services/}  # relative to this file
mesh: {domain: mesh, outbound_address: 127.0.0.1, outbound_port: 15001}
xds: {address: "127.0.0.1:15010", limits: {streams: 20000}}
http: {address: "127.0.0.1:15014"}
guard: {hold: 300, shrink: 0.5}
drain: {grace: 10}
doubt: {remove: []}                           # findings of isthmus doctor that take an instance out of the catalog
merge: {weights: {consul: 90, local: 10}}     # shares of the traffic, where both know a service
audit: 3600
sync_timeout: 30
state_dir: /var/lib/isthmus
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from isthmus.bridge.explain import Step, dotted, explain
from isthmus.registry.consul.config import ConsulConfig, parts
from isthmus.registry.doubt import DoubtRules
from isthmus.registry.drain import DrainRules
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.eureka.config import EurekaConfig
from isthmus.registry.file import FileConfig
from isthmus.registry.guard import MAX_HOLD, GuardRules
from isthmus.registry.marked_yaml import Marked, MarkedYAMLError, parse_marked_yaml
from isthmus.registry.merge import MergeRules
from isthmus.registry.model import OutlierDetection
from isthmus.registry.nomad.config import NomadConfig
from isthmus.xds.server.limits import Limits

MAX_BYTES = 1 << 20
"""Bytes of the configuration file, and of a file that `${file:...}` names."""

_REFERENCE = re.compile(r"\$\{(?:(env|file):([^${}]+)\})?")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, the line, the path and what would be accepted."""


class ConsulRegistry(
    ConsulConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="consul"
):
    """A Consul to read. `name` is the origin's name everywhere it is shown. `outlier_detection`, here as in all registries, says
    whether callers leave out instances that fail, and how quickly."""

    name: str
    outlier_detection: bool | OutlierDetection = False


class FileRegistry(FileConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="file"):
    """A file or a directory of files to read."""

    name: str
    outlier_detection: bool | OutlierDetection = False


class EurekaRegistry(
    EurekaConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="eureka"
):
    """Eureka servers to read. They keep an instance that crashed for minutes, so callers look for themselves."""

    name: str
    outlier_detection: bool | OutlierDetection = True


class EtcdRegistry(EtcdConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="etcd"):
    """An etcd cluster to read."""

    name: str
    outlier_detection: bool | OutlierDetection = False


class NomadRegistry(NomadConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="nomad"):
    """A Nomad to read."""

    name: str
    outlier_detection: bool | OutlierDetection = False


NetworkRegistry = ConsulRegistry | EurekaRegistry | EtcdRegistry | NomadRegistry
Registry = NetworkRegistry | FileRegistry


class MeshConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the whole mesh: see `isthmus.xds.translate.mesh.MeshSettings`. `virtual_ips` is the range of the
    addresses at which TCP services are reached."""

    domain: str = "mesh"
    outbound_address: str = "127.0.0.1"
    outbound_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 15001
    virtual_ips: str = "127.64.0.0/10"


class MergeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of the traffic by registry: see `isthmus.registry.merge.MergeRules`."""

    weights: Mapping[str, int] = {}


class ListenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to listen, `host:port`; port 0 takes any."""

    address: str


class XdsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The xDS server. `load_interval`: seconds between two load reports of a proxy that offers them."""

    address: str = "127.0.0.1:15010"
    load_interval: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 10.0
    limits: Limits = Limits()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of isthmus.yaml. `sync_timeout` is in seconds: how long the first push waits for a registry."""

    registries: Annotated[tuple[Registry, ...], msgspec.Meta(min_length=1)]
    mesh: MeshConfig = MeshConfig()
    xds: XdsConfig = XdsConfig()
    http: ListenConfig = ListenConfig("127.0.0.1:15014")
    guard: GuardRules = GuardRules()
    drain: DrainRules = DrainRules()
    doubt: DoubtRules = DoubtRules()
    merge: MergeConfig = MergeConfig()
    audit: Annotated[float, msgspec.Meta(ge=0, le=MAX_HOLD)] = 3600.0
    """Seconds between two comparisons of what the watches brought with a complete listing; 0 for none."""
    sync_timeout: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    state_dir: str = "/var/lib/isthmus"

    @property
    def merge_rules(self) -> MergeRules:
        """How the catalog is made of what the registries say."""
        outlier_detection = {
            r.name: OutlierDetection() if r.outlier_detection is True else r.outlier_detection
            for r in self.registries
            if r.outlier_detection is not False
        }
        return MergeRules(self.merge.weights, outlier_detection, self.doubt)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or says something that is not accepted.

    """
    try:
        text = _read(path)
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
    try:
        config = msgspec.convert(_resolve(marked, [], path.parent, environment), Config)
        _check(config)
    except _AtError as e:
        steps, reason = e.path, e.reason
    except msgspec.ValidationError as e:
        steps, reason = explain(Config, marked, str(e))
    else:
        return _anchored(config, path.parent.absolute())
    raise ConfigError(f"{path}:{marked.line_of(steps)}: {dotted(steps)}{': ' if steps else ''}{reason}")


class _AtError(Exception):
    """Something is wrong at a path."""

    def __init__(self, path: list[Step], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _resolve(marked: Marked, at: list[Step], folder: Path, environment: Mapping[str, str]) -> Any:
    """The value, with `${env:NAME}` and `${file:path}` replaced in every string."""
    if isinstance(marked.value, dict):
        return {k: _resolve(m, [*at, k], folder, environment) for k, m in marked.inside.items()}
    if isinstance(marked.value, list):
        return [_resolve(m, [*at, i], folder, environment) for i, m in marked.inside.items()]
    if not isinstance(marked.value, str):
        return marked.value
    text = _REFERENCE.sub(lambda m: _reference(m[1], m[2], at, folder, environment), marked.value)
    if not text.isprintable():
        # A line end in a token would end the header that carries it. The text itself may be a secret.
        character = next(c for c in text if not c.isprintable())
        raise _AtError(at, f"has the character U+{ord(character):04X}; expected one line of printable text")
    return text


def _reference(kind: str | None, name: str, at: list[Step], folder: Path, environment: Mapping[str, str]) -> str:
    if kind is None:
        raise _AtError(at, "after ${ expected env:NAME} or file:path}")
    if not name.isprintable():
        raise _AtError(at, f"${{{kind}:...}} has a character in its name that cannot be printed")
    if kind == "env":
        if name not in environment:
            raise _AtError(at, f"the environment has no {name}")
        return environment[name]
    try:
        content = _read(folder / name)
        if len(content) > MAX_BYTES:
            raise _AtError(at, f"{name} is larger than {MAX_BYTES} bytes")
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise _AtError(at, f"cannot read {name}: {getattr(e, 'strerror', None) or 'not UTF-8 text'}") from None


def _check(config: Config) -> None:
    seen: set[str] = set()
    for i, registry in ((i, one) for i, written in enumerate(config.registries) for one in _origins(written)):
        at: list[Step] = ["registries", i, "name"]
        if not _NAME.fullmatch(registry.name):
            raise _AtError(at, f"{registry.name!r}: expected lower-case letters, digits and dashes, at most 63")
        if registry.name in seen:
            raise _AtError(at, f"{registry.name!r} is the name of another registry")
        seen.add(registry.name)
        if isinstance(registry, FileRegistry) and not (registry.path and all(registry.patterns)):
            raise _AtError(["registries", i, "path"], "expected a file, a directory or a pattern, got nothing")
    mesh = config.mesh
    if not _DOMAIN.fullmatch(mesh.domain) or len(mesh.domain) > 190:
        raise _AtError(["mesh", "domain"], f"{mesh.domain!r}: expected a lower-case domain such as mesh.example.com")
    try:
        ipaddress.ip_address(mesh.outbound_address)
    except ValueError:
        raise _AtError(
            ["mesh", "outbound_address"], f"{mesh.outbound_address!r}: expected an IP address such as 127.0.0.1"
        ) from None
    try:
        if ipaddress.IPv4Network(mesh.virtual_ips).num_addresses < 4:
            raise ValueError("no room")  # noqa: TRY301 - the same answer as to what is no network
    except ValueError:
        raise _AtError(
            ["mesh", "virtual_ips"], f"{mesh.virtual_ips!r}: expected an IPv4 network such as 127.64.0.0/10"
        ) from None
    if not 0 <= config.guard.hold <= MAX_HOLD:
        raise _AtError(["guard", "hold"], f"expected seconds from 0 to {MAX_HOLD}, got {config.guard.hold:g}")
    for name, weight in config.merge.weights.items():
        if name not in seen:
            raise _AtError(["merge", "weights", name], f"no registry of this name; there are {', '.join(sorted(seen))}")
        if weight < 0:
            raise _AtError(["merge", "weights", name], f"expected a number from 0, got {weight}")
    if not 0 <= config.drain.grace <= MAX_HOLD:
        raise _AtError(["drain", "grace"], f"expected seconds from 0 to {MAX_HOLD}, got {config.drain.grace:g}")
    if not 0 <= config.guard.shrink <= 1:
        raise _AtError(["guard", "shrink"], f"expected a share from 0 to 1, got {config.guard.shrink:g}")
    for section, listen in (("xds", config.xds), ("http", config.http)):
        split_address(listen.address, [section, "address"])
    if config.xds.address == config.http.address and not config.xds.address.endswith(":0"):
        raise _AtError(
            ["http", "address"], f"{config.http.address!r} is the address of xds as well; give it another port"
        )
    if not config.state_dir:
        raise _AtError(["state_dir"], "expected a directory, got nothing")


def split_address(address: str, at: list[Step]) -> tuple[str, int]:
    """`host:port` in its parts."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise _AtError(at, f"{address!r}: expected host:port, such as 127.0.0.1:15010 or [::]:15010")
    if ":" in host and not (host[0] == "[" and host[-1] == "]"):
        raise _AtError(at, f"{address!r}: an IPv6 address stands in brackets, such as [::]:15010")
    return host.strip("[]"), int(port)


def _origins(registry: Registry) -> tuple[Registry, ...]:
    """A Consul with several datacenters or peers is an origin for each, `NAME-DATACENTER`."""
    if not isinstance(registry, ConsulRegistry):
        return (registry,)
    return tuple(
        msgspec.structs.replace(one, name=f"{one.name}-{_NOT_IN_NAMES.sub('-', part.lower())}" if part else one.name)
        for part, one in parts(registry)
    )


def _anchored(config: Config, folder: Path) -> Config:
    """Paths in the file are relative to the file."""
    return msgspec.structs.replace(
        config,
        registries=tuple(_anchored_registry(one, folder) for r in config.registries for one in _origins(r)),
        state_dir=str(folder / config.state_dir),
    )


_PATHS = ("ca_file", "cert_file", "key_file", "token_file")
"""Fields of registries that name files."""


def _anchored_registry(registry: Registry, folder: Path) -> Registry:
    if isinstance(registry, FileRegistry):
        several = tuple(str(folder / pattern) for pattern in registry.patterns)
        return msgspec.structs.replace(registry, path=several[0] if isinstance(registry.path, str) else several)
    paths = {f: str(folder / getattr(registry, f)) for f in _PATHS if getattr(registry, f, "")}
    return msgspec.structs.replace(registry, **paths)
