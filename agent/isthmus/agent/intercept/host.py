"""What is read of this machine, none of which needs rights, and whether this process may change its network."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path

from isthmus.agent.intercept.config import Intercept
from isthmus.agent.intercept.plan import Host, owners

_CAP_NET_ADMIN = 12
_MAX_RESOLV_CONF = 64 * 1024


def read_host(config: Intercept) -> Host:
    """The facts on which a plan depends."""
    users, groups = owners(config)
    known_users: dict[str, int] = {}
    known_groups: dict[str, int] = {}
    for name in users:
        with contextlib.suppress(KeyError):
            known_users[name] = pwd.getpwnam(name).pw_uid
    for name in groups:
        with contextlib.suppress(KeyError):
            known_groups[name] = grp.getgrnam(name).gr_gid
    return Host(no_ipv6=_no_ipv6(), nameservers=_nameservers(), users=known_users, groups=known_groups)


def may_administer() -> bool:
    """Whether this process may change rules and routes (CAP_NET_ADMIN)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def boot_id() -> str:
    """What is another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def network_id() -> int:
    """The number of the network namespace in which this thread is."""
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 - the namespace behind the link, not the link


def _no_ipv6() -> str:
    try:
        addresses = [line.split()[0] for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    except OSError:
        return "this kernel has none"
    # A redirected connection goes to ::1.
    return "" if f"{1:032x}" in addresses else "the loopback interface has no ::1"


def _nameservers() -> tuple[str, ...]:
    try:
        with Path("/etc/resolv.conf").open("rb") as file:
            lines = file.read(_MAX_RESOLV_CONF).decode(errors="replace").splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    return tuple(each[1] for each in words if len(each) > 1 and each[0] == "nameserver")
