"""What a configuration refers to, looked at before anything starts: `serve --check`, a start and a reload ask the same."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

from isthmus.bridge.config import Config, FileRegistry, NetworkRegistry, WorkloadsRegistry
from isthmus.bridge.state import StateError, read_virtual_ips
from isthmus.registry.file.find import begin_of
from isthmus.registry.kv.config import ConsulStoreConfig, DirectoryStoreConfig, EtcdStoreConfig
from isthmus.registry.settings import split_address
from isthmus.xds.server.certificates import CertificateError, Certificates


class PreflightError(Exception):
    """Something that the configuration refers to cannot be used; one sentence for the operator."""


def preflight(config: Config) -> list[str]:
    """Look at everything that is on this machine, and change nothing. Returns what may be meant so, but should be known.

    Raises:
        PreflightError: the bridge could not start.

    """
    for registry in config.registries:
        if not isinstance(registry, FileRegistry | WorkloadsRegistry):
            _check_tls(registry, f"registry {registry.name}")
    if not isinstance(config.store, DirectoryStoreConfig):
        _check_tls(config.store, "store")
    if (tls := config.xds.tls) is not None:
        try:
            Certificates(tls.cert_file, tls.key_file, tls.ca_file).read()
        except CertificateError as e:
            raise PreflightError(f"xds.tls: {e}") from None
    try:
        read_virtual_ips(Path(config.state_dir), config.mesh.virtual_ips)
    except StateError as e:
        raise PreflightError(str(e)) from None
    return list(_remarks(config))


def _remarks(config: Config) -> Iterator[str]:
    for registry in config.registries:
        if not isinstance(registry, FileRegistry):
            continue
        for begin in sorted({str(begin_of(pattern)) for pattern in registry.patterns}):
            if not Path(begin).exists():
                yield f"registry {registry.name}: {begin} is not there (yet)"
    if config.http.token or not any(isinstance(registry, WorkloadsRegistry) for registry in config.registries):
        return
    if not _is_loopback(split_address(config.http.address, [])[0]):
        yield f"whoever reaches http.address {config.http.address} can register workloads: there is no http.token"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tls(config: NetworkRegistry | ConsulStoreConfig | EtcdStoreConfig, who: str) -> None:
    for field in ("ca_file", "cert_file", "key_file"):
        path = getattr(config, field)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as e:
            raise PreflightError(f"{who}: {field} {path}: {e.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except ssl.SSLError:
        raise PreflightError(f"{who}: ca_file {config.ca_file}: expected certificates in PEM form") from None
    if config.cert_file:
        try:
            context.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
        except ssl.SSLError:
            raise PreflightError(
                f"{who}: cert_file {config.cert_file}, key_file {config.key_file}: expected a "
                "certificate and its key, without a password, in PEM form"
            ) from None


def _no_password() -> str:
    """Without this OpenSSL would ask for it on the terminal, and wait."""
    return ""
