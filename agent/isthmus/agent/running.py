"""An Envoy that outlives the agent which started it, and how another agent finds it.

Envoy asks the kernel for SIGTERM when its parent ends (PR_SET_PDEATHSIG, in its hot restart). An agent that is killed or upgraded
must not end the proxy, so Envoy is started by a process in between that is gone before Envoy begins: its parent is init, and
remains so. It stays in the agent's cgroup, so that systemd, Nomad and Docker end it with the rest. The agent follows it through a
pidfd, and writes down which process it is; a process is the same when its start time and the boot are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.registry.atomic import write_atomically

_BETWEEN = """
import os, sys, time
parent = os.getpid()
pid = os.fork()
if pid:
    os.write(1, b"%d" % pid)
    os._exit(0)
os.setsid()
os.dup2(2, 1)
while os.getppid() == parent:
    time.sleep(0.001)
os.execv(sys.argv[1], sys.argv[1:])
"""
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What of the agent's environment Envoy gets: there may be tokens in it."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where shm_open puts it
_KILL_AFTER = 5.0


class Running(msgspec.Struct, frozen=True):
    """An Envoy process. `digest` tells what it was started with; `epoch` and `base_id` are those of its hot restart."""

    pid: int
    started: int
    """Clock ticks between boot and start, as in /proc/PID/stat."""
    boot: str
    epoch: int
    base_id: int
    digest: str

    @property
    def alive(self) -> bool:
        """Whether that very process is there, and has not ended."""
        return _boot() == self.boot and _started(self.pid) == self.started


class State(msgspec.Struct, frozen=True):
    """The Envoys of an agent, the newest last; `address` is the last that this machine was known by.

    `base_id` is the same for all Envoys of a directory, so that one takes over, or away, the shared memory of those before it.
    """

    envoys: tuple[Running, ...] = ()
    address: str = ""
    base_id: int = 0


def read_state(path: Path) -> State:
    """What was written down, of Envoys only those that are alive. A file that cannot be read is as good as none."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return State()
    return msgspec.structs.replace(state, envoys=tuple(e for e in state.envoys if e.alive))


def write_state(path: Path, state: State) -> None:
    """Write it down.

    Raises:
        OSError: it cannot be written.

    """
    write_atomically(path, msgspec.json.encode(state))


async def launch(command: Sequence[str], directory: Path, epoch: int, base_id: int, digest: str) -> Running:
    """Start an Envoy in a directory, as nobody's child; it writes to the agent's standard error.

    Raises:
        OSError: it cannot be started.

    """
    hot_restart = ["--restart-epoch", str(epoch), "--base-id", str(base_id)]
    between = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", _BETWEEN),
        *command,
        *hot_restart,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=directory,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ},
    )
    output, _ = await between.communicate()
    if not output.isdigit():
        raise OSError(f"{command[0]} was not started")
    pid = int(output)
    started = _started(pid)
    if started is None:
        raise OSError(f"{command[0]} ended at once")
    return Running(pid, started, _boot(), epoch, base_id, digest)


async def ended(running: Running) -> None:
    """Wait until it has ended."""
    try:
        descriptor = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        if running.alive:
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(running.pid, os.WNOHANG)  # noqa: ASYNC222 - never blocks; in a container the agent may be init


async def end(running: Running) -> None:
    """SIGTERM, and SIGKILL when that does not help."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not running.alive:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_AFTER):
                await ended(running)


def clean(directory: Path, base_id: int) -> None:
    """Take away what Envoys that have ended leave behind for a hot restart."""
    for path in directory.glob("hr_*"):
        path.unlink(missing_ok=True)
    (_SHARED_MEMORY / f"envoy_shared_memory_{base_id * 10}").unlink(missing_ok=True)


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when there is no such process, or it has ended and nobody has looked."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
