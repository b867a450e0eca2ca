"""The programs that read and change the kernel's rules and routes: which there are, and running one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping

import msgspec

from isthmus.agent.intercept.config import Backend
from isthmus.agent.intercept.plan import Family

IPTABLES: tuple[Backend, ...] = ("iptables-legacy", "iptables-nft")
TIMEOUT = 20.0
"""Seconds for one program; another one may hold the lock of iptables for a while."""
_MAX_OUTPUT = 32 << 20
_PREFIXES: Mapping[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}


class InterceptError(Exception):
    """It could not be done; one sentence for the operator."""


class Tools(msgspec.Struct, frozen=True):
    """Which programs there are."""

    ip: str
    nft: str | None
    iptables: Mapping[tuple[Backend, Family], str]
    """What stands before `-save` and `-restore`."""


async def find_tools() -> Tools:
    """Look for the programs on PATH, and where administrators' programs are.

    Raises:
        InterceptError: `ip` is not there.

    """
    ip = _which("ip")
    if ip is None:
        raise InterceptError("ip is not on PATH: install iproute2")
    iptables: dict[tuple[Backend, Family], str] = {}
    for family, prefix in _PREFIXES.items():
        for backend in IPTABLES:
            name = f"{prefix}-{backend.removeprefix('iptables-')}"
            if _which(f"{name}-restore") and _which(f"{name}-save"):
                iptables[backend, family] = name
        if _which(f"{prefix}-restore") and _which(f"{prefix}-save"):
            # Before 1.8 there was the legacy kind alone, and it does not say so.
            plain: Backend = (
                "iptables-nft" if "nf_tables" in await run(f"{prefix}-restore", "--version") else IPTABLES[0]
            )
            iptables.setdefault((plain, family), prefix)
    return Tools(ip, _which("nft"), iptables)


async def run(*argv: str, text: str = "") -> str:
    """What a program prints on standard output.

    Raises:
        InterceptError: it fails, or takes too long; with what it said.

    """
    name = argv[0].rpartition("/")[2]
    try:
        process = await asyncio.create_subprocess_exec(
            _which(argv[0]) or argv[0],
            *argv[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"LC_ALL": "C"},
        )
    except OSError as e:
        raise InterceptError(f"{name} cannot be started: {e.strerror}") from e
    try:
        out, err = await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT)
    except TimeoutError as e:
        raise InterceptError(f"{name} did not end within {TIMEOUT:.0f} s") from e
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join(err.decode(errors="replace").split())[:500] or f"status {process.returncode}"
        raise InterceptError(f"{name} {' '.join(argv[1:])}: {said}")
    if len(out) > _MAX_OUTPUT:
        raise InterceptError(f"{name} printed more than {_MAX_OUTPUT >> 20} MiB")
    return out.decode(errors="replace")


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin:/usr/bin:/bin")
