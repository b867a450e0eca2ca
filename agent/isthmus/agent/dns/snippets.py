"""What has to be written where, so that programs on a machine ask the agent's DNS. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from isthmus.agent.dns.config import PORT, Address, parse_address

HEAD = "# Written by `isthmus agent dns-setup`; with --undo it puts back what was here before.\n"
MAX_SERVERS = 3
"""Of resolv.conf(5), MAXNS: the C library looks at no more."""


class Mode(enum.StrEnum):
    """Who is told."""

    RESOLV_CONF = "resolv.conf"
    SYSTEMD_RESOLVED = "systemd-resolved"
    DNSMASQ = "dnsmasq"

    @property
    def path(self) -> str:
        """The file, below the root directory."""
        return _PATHS[self]

    @property
    def afterwards(self) -> str:
        """What an operator does so that it is read; nothing where that goes without saying."""
        return _AFTERWARDS[self]


_PATHS = {
    Mode.RESOLV_CONF: "etc/resolv.conf",
    Mode.SYSTEMD_RESOLVED: "etc/systemd/resolved.conf.d/isthmus.conf",
    Mode.DNSMASQ: "etc/dnsmasq.d/isthmus.conf",
}
_AFTERWARDS = {
    Mode.RESOLV_CONF: "",
    Mode.SYSTEMD_RESOLVED: "systemctl restart systemd-resolved",
    Mode.DNSMASQ: "systemctl restart dnsmasq",
}


class SnippetError(Exception):
    """A mode cannot do what it is to do; one sentence for the operator."""


class Place(msgspec.Struct, frozen=True):
    """Where the agent's DNS listens, the mesh's own domains, others in which services have names, and whether the machine's C
    library is musl, which asks all servers at once."""

    listen: tuple[Address, ...]
    domains: tuple[str, ...]
    others: tuple[str, ...] = ()
    musl: bool = False


def to_snippet(mode: Mode, place: Place, before: bytes) -> bytes:
    """The content of the mode's file; `before` is what is there without us.

    Raises:
        SnippetError: the DNS does not listen where that mode could send anybody.

    """
    match mode:
        case Mode.RESOLV_CONF:
            return _resolv_conf(place, before)
        case Mode.SYSTEMD_RESOLVED:
            # A name without a dot is not sent to any DNS server, but with a search domain behind it.
            domains = [f"default.{place.domains[0]}"] if place.domains else []
            domains += [f"~{domain}" for domain in (*place.domains, *place.others)]
            # The empty line forgets servers that other files name: it asks one of all, whatever the domain.
            return (
                f"{HEAD}[Resolve]\nDNS=\nDNS={' '.join(map(str, place.listen))}\nDomains={' '.join(domains)}\n".encode()
            )
        case Mode.DNSMASQ:
            names = "".join(f"/{domain}" for domain in (*place.domains, *place.others))
            servers = [f"{a.host}#{a.port}" for a in place.listen]
            lines = [f"server={names}/{s}\n" for s in servers if names]
            lines += [f"server=//{s}\n" for s in servers]  # names without a dot
            lines.append(f"rebind-domain-ok=/{names}/\n")  # the mesh's addresses are loopback's
            return (HEAD + "".join(lines)).encode()


def resolved_servers(text: bytes) -> list[str]:
    """The DNS servers that a configuration of systemd-resolved names (resolved.conf(5))."""
    servers: list[str] = []
    for line in text.decode("utf-8", "replace").splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and key == "DNS":
            servers = [*servers, *value.split()] if value else []
    return servers


def _resolv_conf(place: Place, before: bytes) -> bytes:
    ours = [a.host for a in place.listen if a.port == PORT][:MAX_SERVERS]
    if not ours:
        listen: Sequence[Address] = place.listen
        raise SnippetError(
            f"resolv.conf cannot name a port, and the DNS listens on {', '.join(map(str, listen))}: let it listen on port "
            f"{PORT} of an address such as 127.0.0.15 (which needs CAP_NET_BIND_SERVICE), or use another mode"
        )
    lines = before.splitlines(keepends=True)
    words = [line.split() for line in lines]
    # Servers that were there before stay behind ours, for the time when the agent is down; not where they would be asked even
    # when it is not.
    alone = place.musl or any(w[:1] == [b"options"] and b"rotate" in w for w in words)
    room = 0 if alone else MAX_SERVERS - len(ours)
    kept: list[bytes] = []
    for line, word in zip(lines, words, strict=True):
        if word[:1] == [b"nameserver"] and len(word) > 1:
            server = parse_address(word[1].decode("ascii", "replace"), PORT)
            if room <= 0 or (server is not None and server.host in ours):
                continue
            room -= 1
        kept.append(line if line.endswith(b"\n") else line + b"\n")
    return HEAD.encode() + "".join(f"nameserver {host}\n" for host in ours).encode() + b"".join(kept)
