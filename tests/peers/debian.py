"""Programs of Debian's packages, unpacked into the cache: nothing is installed into the machine, and no right is needed for it.

A package and what it needs that this machine lacks are fetched by `apt-get download` and unpacked beside each other; a script per
program sets the paths at which it finds its libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., str]

PACKAGES = {
    "debian-iptables": ("iptables",),
    "debian-nftables": ("nftables",),
    "debian-dnsmasq": ("dnsmasq-base",),
    "debian-nginx": ("nginx-core", "nginx-common"),
    "debian-debootstrap": ("debootstrap",),
    "debian-docker": ("docker.io", "containerd", "runc", "iptables"),
}
"""The packages of each peer. Their versions are those of the Debian release that the machine runs."""

_ALTERNATIVES = {
    f"ip{v6}tables{what}": f"ip{v6}tables-nft{what}" for v6 in ("", "6") for what in ("", "-restore", "-save")
}
"""What a fresh Debian's /etc/alternatives lead to."""

_PLANNED = re.compile(r"^Inst (\S+) .*?\((\S+) ", re.MULTILINE)
_START = """#!/bin/sh
here="$(dirname "$(readlink -f "$0")")"
root="$here/../root"
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu:$root/usr/lib/aarch64-linux-gnu:$root/usr/lib"
export XTABLES_LIBDIR="$(echo "$root"/usr/lib/*/xtables)" DEBOOTSTRAP_DIR="$root/usr/share/debootstrap"
export PATH="$here:$PATH:/usr/sbin:/sbin"
exec "$root/{program}" "$@"
"""


def unpack(peer: str, into: Path, run: Run) -> None:
    """Make `into/root`, a tree of what the packages hold, and `into/bin`, a script for each program in it."""
    wanted = PACKAGES[peer]
    quiet = ["-q", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
    plan = run(["apt-get", *quiet, "--simulate", "install", "--no-install-recommends", *wanted])
    missing = {name for name, _ in _PLANNED.findall(plan)}
    into.mkdir()
    root, programs, fetched = into / "root", into / "bin", into / "fetched"
    for directory in (root, programs, fetched):
        directory.mkdir()
    run(["apt-get", *quiet, "download", *sorted(missing | set(wanted))], cwd=fetched)
    for package in sorted(fetched.glob("*.deb")):
        run(["dpkg-deb", "--extract", package, root])
        package.unlink()
    fetched.rmdir()
    for place in ("bin", "sbin", "usr/bin", "usr/sbin"):
        found = {p.name: p.name for p in (root / place).glob("*") if p.exists()}
        for name, program in (found | {a: p for a, p in _ALTERNATIVES.items() if p in found}).items():
            start = programs / name
            start.write_text(_START.format(program=f"{place}/{program}"))
            start.chmod(0o755)
