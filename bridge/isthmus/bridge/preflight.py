"""What a configuration refers to, looked at before anything starts: `serve --check`, a start and a reload ask the same."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from isthmus.bridge.config import Config, FileRegistry, NetworkRegistry
from isthmus.bridge.state import StateError, read_virtual_ips
from isthmus.registry.file.find import begin_of


class PreflightError(Exception):
    """Something that the configuration refers to cannot be used; one sentence for the operator."""


def preflight(config: Config) -> list[str]:
    """Look at everything that is on this machine, and change nothing. Returns what may be meant so, but should be known.

    Raises:
        PreflightError: the bridge could not start.

    """
    for registry in config.registries:
        if not isinstance(registry, FileRegistry):
            _check_tls(registry)
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


def _check_tls(registry: NetworkRegistry) -> None:
    for field in ("ca_file", "cert_file", "key_file"):
        path = getattr(registry, field)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as e:
            raise PreflightError(f"registry {registry.name}: {field} {path}: {e.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=registry.ca_file or None)
    except ssl.SSLError:
        raise PreflightError(
            f"registry {registry.name}: ca_file {registry.ca_file}: expected certificates in PEM form"
        ) from None
    if registry.cert_file:
        try:
            context.load_cert_chain(registry.cert_file, registry.key_file, password=_no_password)
        except ssl.SSLError:
            raise PreflightError(
                f"registry {registry.name}: cert_file {registry.cert_file}, key_file {registry.key_file}: expected a "
                "certificate and its key, without a password, in PEM form"
            ) from None


def _no_password() -> str:
    """Without this OpenSSL would ask for it on the terminal, and wait."""
    return ""
