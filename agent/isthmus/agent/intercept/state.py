"""What this program remembers of what it did to the kernel, in a file, and the lock that keeps two of it apart.

The kernel itself is always looked at as well: the file says only what cannot be seen there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from isthmus.agent.intercept.config import Backend
from isthmus.agent.intercept.host import boot_id, network_id
from isthmus.agent.intercept.netlink import Held
from isthmus.agent.intercept.plan import Plan
from isthmus.agent.intercept.programs import InterceptError
from isthmus.registry.atomic import write_atomically

DEFAULT_DIRECTORY = Path("/run/isthmus")
"""Gone after a start of the machine, like the rules."""
PATIENCE = 15.0
"""Seconds to wait for another run of this program."""
_EVERY = 0.02


class Applied(msgspec.Struct, frozen=True):
    """A plan, and by what it was put into the kernel."""

    plan: Plan
    backend: Backend


class State(msgspec.Struct, frozen=True):
    """Of one network, since the machine's start."""

    boot: str
    before: tuple[Held, ...] | None = None
    """What nf_tables held before the first plan, as far as iptables-nft could have made it."""
    confirmed: Applied | None = None
    pending: Applied | None = None
    """Put in place since, and not confirmed."""
    pending_id: str = ""


class StateFile:
    """The file of the network in which this thread is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / f"intercept-{network_id()}.json"

    def read(self) -> State:
        """Empty if there is none, or if it is of another start of the machine or of another version."""
        empty = State(boot=boot_id())
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError):
            return empty
        return state if state.boot == empty.boot else empty

    def write(self, state: State) -> None:
        """Keep it.

        Raises:
            InterceptError: it cannot be written.

        """
        try:
            write_atomically(self.path, msgspec.json.encode(state))
        except OSError as e:
            raise InterceptError(f"{self.path} cannot be written: {e.strerror}") from e

    def forget(self) -> None:
        """Nothing of ours is in the kernel any more."""
        self.path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Keep others out.

        Raises:
            InterceptError: another one is at work for too long, or the directory cannot be written.

        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise InterceptError(f"{self.directory} cannot be written: {e.strerror}") from e
        try:
            await self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    async def _lock(self, descriptor: int) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return
            if asyncio.get_running_loop().time() > deadline:
                other = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                raise InterceptError(f"another isthmus intercept is at work here (process {other}); try again")
            await asyncio.sleep(_EVERY)
