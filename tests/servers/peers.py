"""Where the real servers are that tests start (`make peers` puts them there)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import peers


def peer_binary(name: str, version: str) -> Path:
    """The program of a peer, `("consul", "1.21.0")` or `("envoy", "1.40.0")`: in the cache, or else, for Consul, on PATH.

    Skips the test when there is none, or fails it when ISTHMUS_PEERS=required.
    """
    path = peers.binary(f"{name}-{version}")
    if path.exists():
        return path
    if name == "consul" and (on_path := shutil.which(name)):
        return Path(on_path)
    reason = f"{name} {version} is not at {path}: `make peers` installs it"
    if peers.required():
        pytest.fail(reason)
    pytest.skip(reason)
