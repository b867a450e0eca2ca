"""A VM that joins the mesh as docs/vm.md says: the bridge on another machine, the packages, and a service on either."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.servers.netns import Machine, network
from tests.servers.process import Process
from tests.servers.upstream import Upstream, get
from tests.servers.vm import Debian, debian

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vm.md").read_text()
ISTHMUS = Path(sys.executable).parent / "isthmus"

RATINGS = """
services:
- name: ratings
  ports: [{name: http, number: 8080, protocol: http}]
  instances: [{id: ratings-1, address: HUB, ports: {http: 8080}}]
"""
SHARED = "127.64.0.1"
"""Where the VM's proxy listens for calls to all HTTP services."""

CURL = """curl() { python3 -c 'import sys, urllib.request as u
print(u.urlopen(sys.argv[1], timeout=10).read().decode())' "$1"; }
"""
"""The tree has no curl."""

OF_OTHERS = re.compile(
    r"var/(log|cache|tmp)(/|$)|var/lib/(dpkg|apt|systemd|dbus)(/|$)|/__pycache__(/|$)"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-$"
)
"""What dpkg, apt, systemd and Python keep for themselves; adduser's copies of the files that it changes."""


def blocks(heading: str, language: str = "bash") -> list[str]:
    """The code blocks of one section of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def build_packages(folder: Path) -> Path:
    """Have the page's command build the packages into a folder; returns it."""
    (build,) = blocks("The packages")
    done = subprocess.run(
        [*shlex.split(build), "-o", folder], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@asynccontextmanager
async def open_town(directory: Path) -> AsyncIterator[Town]:
    """The bridge runs, and the VM is booted."""
    with network("hub", "vm") as (hub, vm), debian(vm, directory) as system:
        async with AsyncExitStack() as stack:
            town = Town(directory, hub, vm, system)
            await town.start(stack)
            yield town


class Town:
    """A hub with the bridge and a service, and a VM with an application, yet without the packages."""

    def __init__(self, directory: Path, hub: Machine, vm: Machine, system: Debian) -> None:
        self.directory = directory
        self.hub, self.vm = hub, vm
        self.system = system

    async def start(self, stack: AsyncExitStack) -> None:
        for name, port, machine in (("reviews", 9080, self.vm), ("ratings", 8080, self.hub)):
            address = machine.address if machine is self.hub else "127.0.0.1"
            application = Upstream(name, port, machine, address)
            await application.start()
            stack.push_async_callback(application.stop)
        bridge = self.directory / "bridge"
        (bridge / "services").mkdir(parents=True)
        (bridge / "services" / "ratings.yaml").write_text(RATINGS.replace("HUB", self.hub.address))
        (config,) = blocks("The bridge", "yaml")
        (bridge / "isthmus.yaml").write_text(f"{config}state_dir: state\n")
        self.bridge = Process(self.hub.command(ISTHMUS, "serve", "-c", bridge / "isthmus.yaml"), bridge / "serve.log")
        self.bridge.start()
        stack.callback(self.bridge.stop)
        await self.system.boot()
        hosts = self.system.root / "etc" / "hosts"
        hosts.write_text(f"{hosts.read_text()}{self.hub.address} isthmus.example.com\n")

    def bundle(self) -> Path:
        """Make the bundle as the page says."""
        folder = self.directory / "operator"
        folder.mkdir()
        (commands,) = blocks("A bundle for the machine")
        path = f"{ISTHMUS.parent}:/usr/bin:/bin"
        subprocess.run(["bash", "-ec", commands], cwd=folder, env={"PATH": path}, check=True, timeout=60)
        return folder / "vm-1"

    async def do(self, commands: str) -> str:
        """Run commands of the page on the VM, in the folder that was copied, while the applications go on."""
        script = f"mkdir -p /root/vm-1\ncd /root/vm-1\n{CURL}{commands}"
        return await asyncio.to_thread(self.system.run, "bash", "-ec", script)

    def copy(self, *files: Path) -> None:
        for file in files:
            self.system.copy(file, f"/root/vm-1/{file.name}")

    async def join(self, packages: Path) -> None:
        """Make the VM a member of the mesh."""
        self.copy(*packages.glob("*.deb"), *self.bundle().iterdir())
        await self.do(blocks("On the VM")[0])
        await self.do("isthmus agent wait --for 'upstream:ratings>=1' --timeout 30s")

    async def call(self) -> tuple[int, str]:
        """Call the VM's service from the hub."""
        return await get(9080, "reviews:9080", self.vm.address, machine=self.hub)

    async def draining(self) -> bool:
        """Whether the agent asks callers to go elsewhere."""
        return '"draining":true' in await self.do("curl http://127.0.0.1:15020/status")

    def main_pid(self) -> str:
        return self.system.run("systemctl", "show", "--property=MainPID", "--value", "isthmus-agent").strip()

    def envoys(self) -> list[str]:
        """The process ids of the Envoys there."""
        return self.system.run(
            "sh",
            "-c",
            "for p in /proc/[0-9]*; do case $(readlink $p/exe) in *isthmus-envoy*) echo ${p#/proc/};; esac; done",
        ).split()

    def rules(self) -> str:
        """All that the kernel was told about where packets go."""
        commands = "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
        return re.sub(r" expires \d+sec", "", self.system.run("sh", "-c", commands))

    def files(self) -> dict[str, str]:
        """Everything below /etc, /usr and /var: its kind, rights, owner and content."""
        found = {}
        for top in ("etc", "usr", "var"):
            for folder, names, files in os.walk(self.system.root / top):
                for name in (*names, *files):
                    path = Path(folder) / name
                    shown = str(path.relative_to(self.system.root))
                    if not OF_OTHERS.search(shown):
                        found[shown] = _described(path)
        return found


def _described(path: Path) -> str:
    found = path.lstat()
    content = ""
    if stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(found.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {content}"
