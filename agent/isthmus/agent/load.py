"""Reading agent.yaml: the only place of the agent that reads the environment and this machine's name."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from isthmus.agent.bundle import CutShortError, require_whole
from isthmus.agent.check import check
from isthmus.agent.config import LONGEST_PATH, AgentConfig, TlsConfig
from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.duration import decode
from isthmus.agent.workload import to_settings
from isthmus.registry.explain import dotted
from isthmus.registry.settings import AtError, ConfigError, parse_settings, read_settings


def load(path: Path, environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or says something that is not accepted.

    """
    return parse(read_settings(path), path, environment, socket.gethostname())


def parse(text: bytes, path: Path, environment: Mapping[str, str], hostname: str) -> AgentConfig:
    """Read a configuration text; relative paths in it are relative to the folder of `path`; `hostname` is this machine's name.

    Raises:
        ConfigError: it says something that is not accepted.

    """
    try:
        require_whole(text)
    except CutShortError as e:
        raise ConfigError(f"{path}: {e}") from None
    settings = to_settings(text, path, environment)
    if settings is None:
        config = parse_settings(text, path, environment, AgentConfig, check=check, dec_hook=decode)
    else:
        config = _convert(settings, path)
    folder = path.parent.absolute()
    place = folder / config.config_path
    if not config.proxy_admin_port and len(bytes(place)) > LONGEST_PATH:
        raise ConfigError(
            f"{path}: configPath {place}: expected at most {LONGEST_PATH} bytes, for with proxyAdminPort 0 a socket is made in it"
        )
    return msgspec.structs.replace(
        config,
        node=config.node or hostname,
        service_cluster=config.service_cluster or (config.services[0].name if config.services else "isthmus"),
        config_path=str(place),
        discovery_tls=config.discovery_tls and _anchored(config.discovery_tls, folder),
        dns=_dns(config),
        binary_path=str(folder / config.binary_path) if "/" in config.binary_path else config.binary_path,
    )


def _dns(config: AgentConfig) -> DnsConfig | None:
    """What is written; where nothing is, one by default if calls leave by the mesh's addresses, to which only names lead."""
    section = config.dns or DnsConfig(enabled=config.outbound_mode in ("ADDRESSES", "CAPTURED"))
    return section if section.enabled else None


def _anchored(tls: TlsConfig, folder: Path) -> TlsConfig:
    return TlsConfig(*(str(folder / p) if p else "" for p in (tls.ca_file, tls.cert_file, tls.key_file)))


def _convert(settings: Mapping[str, Any], path: Path) -> AgentConfig:
    """Of settings that were not written as agent.yaml, so that there are no lines to name."""
    try:
        config = msgspec.convert(settings, AgentConfig, dec_hook=decode)
        check(config)
    except AtError as e:
        raise ConfigError(f"{path}: {dotted(e.path)}: {e.reason}") from None
    except msgspec.ValidationError as e:
        raise ConfigError(f"{path}: {e}") from None
    return config
