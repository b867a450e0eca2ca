"""A machine with a Debian of its own and a running systemd: what a package is installed on.

Namespaces all the way: its processes, its mounts and its network are its own, and all of it ends with the test's process. The
tree is thrown away with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import peers
from tests.servers.netns import Machine
from tests.servers.peers import peer_binary
from tests.servers.process import Process
from tests.wait import eventually

_BOOT = """
set -e
mount --bind "$1" "$1"
cd "$1"
mkdir -p proc sys run dev .old
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd systemd sys/fs/cgroup/systemd
pivot_root . .old
umount -l /.old
exec env -i container=isthmus PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --log-target=console
"""

_SETTLED = {"running", "degraded"}
"""What systemd says of itself when it has started everything it could."""


class Debian:
    """A tree, and while it is booted, the commands that run in it."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.root = directory / "debian"
        self.root.mkdir()
        with subprocess.Popen([peer_binary("debian", "base")], stdout=subprocess.PIPE) as tar:
            subprocess.run(["tar", "-C", self.root, "-xf", "-"], stdin=tar.stdout, check=True)
        own = (
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--uts",
            "--ipc",
            "--cgroup",
            "--mount",
            "--propagation=private",
        )
        argv = machine.command(*own, "--", "bash", "-c", _BOOT, "boot", self.root)
        self._init = Process(argv, directory / "boot.log")

    async def boot(self) -> None:
        """Start systemd and wait until it has started what it could.

        Skips the test, or fails it with ISTHMUS_PEERS=required, where the kernel does not let it.
        """
        if not Path("/sys/fs/cgroup/systemd").is_dir():
            reason = "systemd is started in a cgroup hierarchy of version 1, and this machine mounts none"
            if peers.required():
                pytest.fail(reason)
            pytest.skip(reason)
        self._init.start()

        def settled() -> bool:
            assert self._init.running, self._init.output()[-2000:]
            return self.run("systemctl", "is-system-running", check=False).strip() in _SETTLED

        await eventually(settled, "systemd has started", 60, every=0.1)

    def command(self, *words: str | Path) -> list[str]:
        """The words that run a program there."""
        return ["nsenter", f"--target={self._pid}", "--all", "--", *map(str, words)]

    def run(self, *words: str | Path, check: bool = True, timeout: float = 120) -> str:
        """What a program prints there. Raises AssertionError when it fails, with what it said."""
        argv = self.command(*words)
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )
        assert done.returncode == 0 or not check, (
            f"{' '.join(map(str, words))}: {done.stdout[-1500:]}{done.stderr[-2500:]}"
        )
        return done.stdout

    def copy(self, source: Path, to: str) -> None:
        """Put a file of this machine there."""
        target = self.root / to.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def stop(self) -> None:
        """Pull the plug."""
        self._init.stop(0.1)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def _pid(self) -> int:
        """The first process in its own process namespace, `unshare`'s child."""
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        return int(children[0])


@contextlib.contextmanager
def debian(machine: Machine, directory: Path) -> Iterator[Debian]:
    """A Debian on a machine of the test's network, yet to be booted."""
    if os.geteuid() != 0:
        pytest.skip("a Debian tree can be started by root alone")
    one = Debian(machine, directory)
    try:
        yield one
    finally:
        one.stop()
