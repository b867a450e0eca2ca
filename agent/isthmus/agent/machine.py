"""The machine that an agent is on: its address, whether it has IPv6, and that no other agent has the same directory."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from isthmus.agent.config import AgentConfig
from isthmus.registry.settings import split_address


class MachineError(Exception):
    """The agent cannot be here as configured; one sentence for the operator."""


def find_address(config: AgentConfig, known: str) -> str:
    """The configured address, or the one from which the bridge is reached, or else the last that was known.

    Raises:
        MachineError: there is none of these.

    """
    if config.address:
        return config.address
    host, port = split_address(config.bridges[0], ["discoveryAddress"])
    try:
        family, kind, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as s:
            s.connect(at)  # a datagram socket: nothing is sent
            return str(s.getsockname()[0])
    except OSError as e:
        if known:
            return known
        raise MachineError(
            f"this machine's address is not known, for there is no way to discoveryAddress {config.bridges[0]} "
            f"({e.strerror or e}): say address"
        ) from None


def has_ipv6() -> bool:
    """Whether the kernel has it, and an address of it."""
    try:
        return bool(Path("/proc/net/if_inet6").read_text())
    except OSError:
        return False


def lock(directory: Path) -> int:
    """Take the directory for this process, until the descriptor that is returned is closed, at the latest by the process's end.

    Raises:
        MachineError: another agent has it, or it cannot be made.

    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(_lock_file(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise MachineError(f"configPath {directory}: {e.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MachineError(f"another agent runs with configPath {directory}: give this one its own directory") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def locked_by(directory: Path) -> int | None:
    """The process id of the agent that has the directory; None when none does, whatever one that was killed has left."""
    try:
        with _lock_file(directory).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):
        pass
    return None


def _lock_file(directory: Path) -> Path:
    return directory / "agent.lock"
