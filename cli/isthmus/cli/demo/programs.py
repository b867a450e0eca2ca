"""Where the programs are that the demo needs, and which ports are free."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from pathlib import Path

OLDEST_ENVOY = (1, 36)

_VERSION = re.compile(r"version: \w+/(\d+)\.(\d+)\.(\d+)")


class DemoError(Exception):
    """The demo cannot run; one sentence for the operator."""


def peers_cache() -> Path:
    """Where `make peers` puts programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus" / "peers"


def find_program(name: str, below: str, told: Path | None = None) -> Path:
    """The program that the caller named, else the one on PATH, else the newest that `make peers` made.

    Raises:
        DemoError: there is none.

    """
    if told is not None:
        if not told.is_file() or not os.access(told, os.X_OK):
            raise DemoError(f"{told} is not a program that could be run as {name.capitalize()}")
        return told.absolute()
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path).absolute()
    made = [p for p in peers_cache().glob(f"{name}-*/{below}") if os.access(p, os.X_OK)]
    if not made:
        raise DemoError(
            f"there is no {name} on PATH nor in {peers_cache()}; `make peers` puts one there"
            + (", and --envoy names any other" if name == "envoy" else "")
        )
    return max(made, key=lambda p: [int(n) for n in re.findall(r"\d+", str(p.relative_to(peers_cache())))])


async def envoy_version(program: Path) -> str:
    """What `envoy --version` says.

    Raises:
        DemoError: it is no Envoy, or one that is too old.

    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as e:
        raise DemoError(f"{program} cannot be run: {e.strerror}") from None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    except TimeoutError:
        raise DemoError(f"{program} is not an Envoy: `--version` did not end within 10 s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    found = _VERSION.search(output.decode(errors="replace"))
    if found is None:
        said = " ".join(output.decode(errors="replace").split())[:100]
        raise DemoError(f"{program} is not an Envoy: `--version` says {said!r}")
    if (int(found[1]), int(found[2])) < OLDEST_ENVOY:
        raise DemoError(f"{program} is Envoy {'.'.join(found.groups())}; 1.36 or later is needed")
    return ".".join(found.groups())


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def claim_port(port: int) -> None:
    """Make sure that nothing listens on a port that the caller named.

    Raises:
        DemoError: something does, or we may not.

    """
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError as e:
            reason = "another program listens there" if e.errno == 98 else e.strerror
            raise DemoError(f"port {port} of 127.0.0.1 cannot be used: {reason}; choose another --port") from None
