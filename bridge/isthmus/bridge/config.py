"""isthmus.yaml: read once, into a frozen value. The only place that reads the environment.

registries:                                   # in order of precedence
- name: consul
  type: consul
  address: http://127.0.0.1:8500
  token: ${env:CONSUL_HTTP_TOKEN}             # or ${file:/run/secrets/consul-token}
- {name: local, type: file, path: services/}  # relative to this file
mesh: {domain: mesh, outbound_address: 127.0.0.1, outbound_port: 15001}
xds: {address: "127.0.0.1:15010", limits: {streams: 20000}, tls: {cert_file: bridge.pem, key_file: bridge.key}}
http: {address: "127.0.0.1:15014"}
guard: {hold: 300, shrink: 0.5}
drain: {grace: 10}
doubt: {remove: []}                           # findings of isthmus doctor that take an instance out of the catalog
merge: {weights: {consul: 90, local: 10}}     # shares of the traffic, where both know a service
audit: 3600
sync_timeout: 30
state_dir: /var/lib/isthmus
store: {type: directory}                      # or consul, or etcd: for what replicas have in common
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from isthmus.registry.consul.config import ConsulConfig, parts
from isthmus.registry.doubt import DoubtRules
from isthmus.registry.drain import DrainRules
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.eureka.config import EurekaConfig
from isthmus.registry.explain import Step
from isthmus.registry.file import FileConfig
from isthmus.registry.guard import MAX_HOLD, GuardRules
from isthmus.registry.kv.config import DirectoryStoreConfig, StoreConfig
from isthmus.registry.merge import MergeRules
from isthmus.registry.model import OutlierDetection
from isthmus.registry.nomad.config import NomadConfig
from isthmus.registry.settings import AtError, parse_settings, read_settings, split_address
from isthmus.registry.workloads.config import WorkloadsConfig
from isthmus.xds.server.limits import Limits

_Files = TypeVar("_Files", bound=msgspec.Struct)
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


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


class WorkloadsRegistry(
    WorkloadsConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="workloads"
):
    """Workloads that register with the bridge itself."""

    name: str
    outlier_detection: bool | OutlierDetection = False


class NomadRegistry(NomadConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="nomad"):
    """A Nomad to read."""

    name: str
    outlier_detection: bool | OutlierDetection = False


NetworkRegistry = ConsulRegistry | EurekaRegistry | EtcdRegistry | NomadRegistry
Registry = NetworkRegistry | FileRegistry | WorkloadsRegistry


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
    """Where to listen, `host:port`; port 0 takes any. `token`: what workloads have to show that register here."""

    address: str
    token: str = ""

    def __repr__(self) -> str:
        return f"ListenConfig(address={self.address!r})"


class TLSListenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second xDS listener, with TLS. `ca_file`: clients need a certificate of one of these authorities."""

    cert_file: str
    key_file: str
    ca_file: str = ""
    address: str = "127.0.0.1:15012"


class XdsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The xDS server. `load_interval`: seconds between two load reports of a proxy that offers them."""

    address: str = "127.0.0.1:15010"
    tls: TLSListenConfig | None = None
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
    store: StoreConfig = DirectoryStoreConfig()
    """Where addresses of TCP services and registered workloads are: what replicas have in common."""

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
    return parse(read_settings(path), path, environment)


def parse(text: bytes, path: Path, environment: Mapping[str, str]) -> Config:
    """Read a configuration text; relative paths in it are relative to the folder of `path`.

    Raises:
        ConfigError: it says something that is not accepted.

    """
    return _anchored(parse_settings(text, path, environment, Config, check=_check), path.parent.absolute())


def _check(config: Config) -> None:
    seen: set[str] = set()
    for i, registry in ((i, one) for i, written in enumerate(config.registries) for one in _origins(written)):
        at: list[Step] = ["registries", i, "name"]
        if not _NAME.fullmatch(registry.name):
            raise AtError(at, f"{registry.name!r}: expected lower-case letters, digits and dashes, at most 63")
        if registry.name in seen:
            raise AtError(at, f"{registry.name!r} is the name of another registry")
        seen.add(registry.name)
        if isinstance(registry, FileRegistry) and not (registry.path and all(registry.patterns)):
            raise AtError(["registries", i, "path"], "expected a file, a directory or a pattern, got nothing")
    mesh = config.mesh
    if not _DOMAIN.fullmatch(mesh.domain) or len(mesh.domain) > 190:
        raise AtError(["mesh", "domain"], f"{mesh.domain!r}: expected a lower-case domain such as mesh.example.com")
    try:
        ipaddress.ip_address(mesh.outbound_address)
    except ValueError:
        raise AtError(
            ["mesh", "outbound_address"], f"{mesh.outbound_address!r}: expected an IP address such as 127.0.0.1"
        ) from None
    try:
        if ipaddress.IPv4Network(mesh.virtual_ips).num_addresses < 4:
            raise ValueError("no room")  # noqa: TRY301 - the same answer as to what is no network
    except ValueError:
        raise AtError(
            ["mesh", "virtual_ips"], f"{mesh.virtual_ips!r}: expected an IPv4 network such as 127.64.0.0/10"
        ) from None
    if not 0 <= config.guard.hold <= MAX_HOLD:
        raise AtError(["guard", "hold"], f"expected seconds from 0 to {MAX_HOLD}, got {config.guard.hold:g}")
    for name, weight in config.merge.weights.items():
        if name not in seen:
            raise AtError(["merge", "weights", name], f"no registry of this name; there are {', '.join(sorted(seen))}")
        if weight < 0:
            raise AtError(["merge", "weights", name], f"expected a number from 0, got {weight}")
    if not 0 <= config.drain.grace <= MAX_HOLD:
        raise AtError(["drain", "grace"], f"expected seconds from 0 to {MAX_HOLD}, got {config.drain.grace:g}")
    if not 0 <= config.guard.shrink <= 1:
        raise AtError(["guard", "shrink"], f"expected a share from 0 to 1, got {config.guard.shrink:g}")
    taken: dict[str, str] = {}
    workloads = [i for i, registry in enumerate(config.registries) if isinstance(registry, WorkloadsRegistry)]
    if len(workloads) > 1:
        raise AtError(
            ["registries", workloads[1], "type"], "there is a registry of type workloads already; one has them all"
        )
    for section, listen in (("xds", config.xds), ("http", config.http), ("xds.tls", config.xds.tls)):
        if listen is None:
            continue
        split_address(listen.address, [*section.split("."), "address"])
        if listen.address in taken and not listen.address.endswith(":0"):
            text = f"{listen.address!r} is the address of {taken[listen.address]} as well; give it another port"
            raise AtError([*section.split("."), "address"], text)
        taken[listen.address] = section
    if not config.state_dir:
        raise AtError(["state_dir"], "expected a directory, got nothing")


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
        xds=_anchored_xds(config.xds, folder),
        state_dir=str(folder / config.state_dir),
        store=_anchored_files(config.store, folder),
    )


def _anchored_xds(xds: XdsConfig, folder: Path) -> XdsConfig:
    if xds.tls is None:
        return xds
    paths = {f: str(folder / getattr(xds.tls, f)) for f in _PATHS if getattr(xds.tls, f, "")}
    return msgspec.structs.replace(xds, tls=msgspec.structs.replace(xds.tls, **paths))


_PATHS = ("ca_file", "cert_file", "key_file", "token_file")
"""Fields of registries that name files."""


def _anchored_registry(registry: Registry, folder: Path) -> Registry:
    if isinstance(registry, FileRegistry):
        several = tuple(str(folder / pattern) for pattern in registry.patterns)
        return msgspec.structs.replace(registry, path=several[0] if isinstance(registry.path, str) else several)
    return _anchored_files(registry, folder)


def _anchored_files(config: _Files, folder: Path) -> _Files:
    paths = {f: str(folder / getattr(config, f)) for f in _PATHS if getattr(config, f, "")}
    return msgspec.structs.replace(config, **paths)
