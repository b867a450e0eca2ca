"""Real servers as processes that a test can freeze, kill and start again."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at the moment.

    Not one of those that the kernel gives to outgoing connections, and each test process has a range of its own: between here and
    the server's start nobody else takes it.
    """
    ports = own_range(6_000, 15_000)
    while True:
        port = ports[next(_ports) % len(ports)]
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def own_range(first: int, end: int) -> range:
    """The part of a range of ports that this test process has for itself."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (end - first) // WORKERS
    return range(first, end)[worker % WORKERS * size :][:size]


WORKERS = 4
"""Test processes beside each other, at most; `make test` starts two."""

_ports = itertools.count(os.getpid() * 37)
"""Two runs beside each other begin at different places."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process whose output goes to a file; it never outlives the test run."""

    def __init__(self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = [str(a) for a in argv]
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the output is appended to the log."""
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.env,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - a leaked server would spoil the next test
            )

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.argv[0]} was not started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP, all of its threads have stopped, which takes them a moment."""
        assert self._popen is not None, f"{self.argv[0]} was not started"
        self._popen.send_signal(number)
        deadline = time.monotonic() + 5
        while number is signal.SIGSTOP and self.running and not self._has_stopped():
            assert time.monotonic() < deadline, f"{self.argv[0]} does not stop"
            time.sleep(0.001)

    def _has_stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] in "Tt" for thread in threads)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Freeze it (SIGSTOP): connections stay open and nothing is answered."""
        self.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if self.running:
                self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(10)

    def stop(self, grace: float = 5) -> int | None:
        """SIGTERM, then SIGKILL after the grace; returns the exit status."""
        if self._popen is None:
            return None
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.terminate()
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._popen.returncode
