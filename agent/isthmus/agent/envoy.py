"""The `envoy` program: where it is, whether it will do, what it is told on its command line, and what it says of a bootstrap."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.agent.config import AgentConfig

OLDEST = (1, 36)
"""The first minor version whose configuration the bridge knows."""
_TIMEOUT = 30.0
_VERSION = re.compile(r"version: [0-9a-f]*/(\d+)\.(\d+)\.(\d+)")
_MAX_SAID = 500

_LOG_AS_JSON = '{"timestamp":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"envoy.%n","event":"%j"}'


class EnvoyError(Exception):
    """There is no Envoy that will do, or it refuses its bootstrap; one sentence for the operator."""


class Program(msgspec.Struct, frozen=True):
    """An `envoy` program."""

    path: str
    version: str


async def find(binary_path: str) -> Program:
    """Look at the program of a name or path; empty: at `envoy` on PATH.

    Raises:
        EnvoyError: there is none, or it is too old, or it does not run.

    """
    path = shutil.which(binary_path or "envoy")
    if path is None:
        named = f"binaryPath {binary_path} is no program" if binary_path else "no envoy on PATH"
        raise EnvoyError(f"{named}: install Envoy {OLDEST[0]}.{OLDEST[1]} or later, or say with binaryPath where it is")
    status, said = await _run([path, "--version"])
    version = _VERSION.search(said)
    if status or version is None:
        raise EnvoyError(f"{path} --version ended with status {status}, and is no Envoy: {_end_of(said)}")
    if (int(version[1]), int(version[2])) < OLDEST:
        raise EnvoyError(f"{path} is Envoy {version[1]}.{version[2]}: expected {OLDEST[0]}.{OLDEST[1]} or later")
    return Program(path, ".".join(version.groups()))


async def hot_restart_version(program: Program) -> str:
    """What programs have in common that can take over from each other.

    Raises:
        EnvoyError: it does not run.

    """
    _, said = await _run([program.path, "--hot-restart-version"])
    return said.strip().rpartition("\n")[2]


def arguments(config: AgentConfig, bootstrap: Path, *, json_logs: bool) -> list[str]:
    """What every epoch of this agent's Envoy is told."""
    options = [
        *("-c", str(bootstrap)),
        *("--log-level", config.proxy_log_level),
        *("--drain-time-s", str(max(1, round(config.drain_duration)))),
        *("--parent-shutdown-time-s", str(max(1, round(config.parent_shutdown_duration)))),
        # All connections are asked to end with their next answer, rather than some at a time.
        *("--drain-strategy", "immediate"),
        # Below the directory in which Envoy is started: the path of a socket may have 107 bytes (unix(7)).
        *("--socket-path", "hr"),
        *("--socket-mode", "600"),
    ]
    if config.concurrency:
        options += ["--concurrency", str(config.concurrency)]
    if json_logs:
        options += ["--log-format", _LOG_AS_JSON]
    return options


async def validate(program: Program, bootstrap: Path) -> None:
    """Have Envoy read a bootstrap.

    Raises:
        EnvoyError: it refuses; with its reason.

    """
    status, said = await _run([program.path, "--mode", "validate", "--log-level", "critical", "-c", str(bootstrap)])
    if status:
        raise EnvoyError(f"Envoy {program.version} refuses the bootstrap {bootstrap}: {_end_of(said)}")


async def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as e:
        raise EnvoyError(f"{command[0]} does not run: {e.strerror}") from None
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        raise EnvoyError(f"{' '.join(command[:3])} did not end within {_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def _end_of(said: str) -> str:
    """The last sentence, for Envoy says the reason last."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1].strip()[-_MAX_SAID:] if lines else "it said nothing"
