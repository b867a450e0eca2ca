"""Programs that the demo starts: they die with it, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Asks the kernel for SIGKILL when the parent's end comes (PR_SET_PDEATHSIG is 1), then becomes the program. A preexec_fn would
# do the same between fork and exec, which is not safe in a process with threads.
_TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """One program, in a session of its own so that Ctrl-C reaches it only through us; its output goes to a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, argv: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> Child:
        """Start it. Raises OSError when the system cannot."""
        tethered = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *map(str, argv)]
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *tethered,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=dict(environment),
            )
        return cls(process, log)

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.returncode

    def last_words(self) -> str:
        """The last line that it wrote, at most 300 characters."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    async def stop(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL; returns when it has gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
