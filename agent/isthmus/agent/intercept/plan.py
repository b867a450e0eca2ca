"""What is captured and what is not, as one value that needs nothing else to be carried out. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from isthmus.agent.intercept.config import Intercept, InterceptConfigError, Listed, Mode

Family = Literal["ipv4", "ipv6"]

ALL = ("0.0.0.0/0", "::/0")
LOOPBACK: Mapping[Family, str] = {"ipv4": "127.0.0.0/8", "ipv6": "::1/128"}
SSH = 22
OWN_PORTS = (15000, 15099)
"""The agent's and Envoy's own; what comes in there is theirs."""

_INTERFACE = re.compile(r"[A-Za-z0-9_.@:-]{1,15}\+?|\+", re.ASCII)
_MAX_ENTRIES = 1_000


class Host(msgspec.Struct, frozen=True):
    """What a plan needs to know of the machine."""

    no_ipv6: str = ""
    """Why IPv6 cannot be captured here; empty where it can."""
    nameservers: tuple[str, ...] = ()
    """Addresses in /etc/resolv.conf."""
    users: Mapping[str, int] = {}
    """The numbers of the users that the configuration names, as far as they exist."""
    groups: Mapping[str, int] = {}


class Plan(msgspec.Struct, frozen=True):
    """Everything that is decided. Addresses and networks are in the form that the kernel shows them."""

    mode: Mode
    families: tuple[Family, ...]
    envoy_port: int
    inbound_port: int
    mark: int
    route_table: int
    proxy_uids: tuple[int, ...]
    proxy_gids: tuple[int, ...]
    inbound: tuple[int, ...] | None
    """Local ports; None is all of them."""
    inbound_exclude: tuple[int, ...]
    networks: tuple[str, ...]
    """Destinations."""
    networks_exclude: tuple[str, ...]
    ports: tuple[int, ...]
    """Destination ports in any network."""
    ports_exclude: tuple[int, ...]
    virtual_ips: str
    """The mesh's own addresses, which are IPv4."""
    uids: tuple[int, ...] | None
    """Users and groups whose connections are captured; None for both is everybody."""
    gids: tuple[int, ...] | None
    uids_exclude: tuple[int, ...]
    gids_exclude: tuple[int, ...]
    virtual_interfaces: tuple[str, ...]
    interfaces_exclude: tuple[str, ...]
    nameservers: tuple[str, ...]
    """Servers whose questions are captured, as networks; none where DNS is left alone."""
    dns_port: int
    drop_invalid: bool
    notes: tuple[str, ...] = ()
    """What the operator should know: what is not captured although it could be."""

    @property
    def mask(self) -> int:
        """The bits of a packet's mark that are ours; a small mark leaves the others to other programs."""
        return 0xFFF if self.mark < 0xFFF else 0xFFFFFFFF

    @property
    def captured_mark(self) -> int:
        """The mark of connections that TPROXY has led to Envoy; `mark` itself is on those that Envoy makes."""
        return self.mark + 1

    @property
    def tproxy(self) -> bool:
        """Whether inbound connections are captured by TPROXY."""
        return self.mode == "TPROXY" and self.inbound != ()

    def of(self, family: Family, networks: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the networks that belong to a family."""
        return tuple(n for n in networks if (":" in n) == (family == "ipv6"))


def owners(config: Intercept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Users and groups that the configuration has by name, for `Host`."""
    users = (config.proxy_uid, config.outbound_owner_users, config.outbound_owner_users_exclude)
    groups = (config.proxy_gid, config.outbound_owner_groups, config.outbound_owner_groups_exclude)

    def names(listed: tuple[Listed, ...]) -> tuple[str, ...]:
        return tuple(n for one in listed for n in _split(one) if n != "*" and not n.isdecimal())

    return names(users), names(groups)


def to_plan(config: Intercept, host: Host) -> Plan:
    """Decide what is captured.

    Raises:
        InterceptConfigError: a value cannot be used, or nothing would be captured.

    """
    for key in ("envoy_port", "inbound_capture_port", "dns_capture_port", "iptables_probe_port"):
        _port(getattr(config, key), key)
    mark, table = config.istio_inbound_tproxy_mark, config.istio_inbound_tproxy_route_table
    if not 1 <= mark <= 0xFFFFFFFE:
        raise InterceptConfigError("istio_inbound_tproxy_mark", f"expected a number from 1 to 4294967294, got {mark}")
    if not 1 <= table <= 0xFFFFFFFF or table in (253, 254, 255):
        raise InterceptConfigError(
            "istio_inbound_tproxy_route_table", f"expected the number of a table of our own, not {table}"
        )
    proxy_uids = _owned(config, "proxy_uid", host.users) or ()
    if not proxy_uids:
        raise InterceptConfigError(
            "proxy_uid", "expected the user as which Envoy runs: its connections must not return"
        )
    families: tuple[Family, ...] = ("ipv4",) if host.no_ipv6 or config.dual_stack is False else ("ipv4", "ipv6")
    if host.no_ipv6 and config.dual_stack:
        raise InterceptConfigError("dual_stack", f"IPv6 cannot be captured here: {host.no_ipv6}")
    plan = Plan(
        mode=config.istio_inbound_interception_mode,
        families=families,
        envoy_port=config.envoy_port,
        inbound_port=config.inbound_capture_port,
        mark=mark,
        route_table=table,
        proxy_uids=proxy_uids,
        proxy_gids=_owned(config, "proxy_gid", host.groups) or (),
        inbound=_inbound(config),
        inbound_exclude=_ports(config, "istio_local_exclude_ports"),
        networks=_networks(config, "istio_service_cidr", wildcard=True),
        networks_exclude=_networks(config, "istio_service_exclude_cidr", wildcard=False),
        ports=_ports(config, "istio_outbound_ports"),
        ports_exclude=_ports(config, "istio_local_outbound_ports_exclude"),
        virtual_ips=_virtual_ips(config),
        uids=_owned(config, "outbound_owner_users", host.users),
        gids=_owned(config, "outbound_owner_groups", host.groups),
        uids_exclude=_owned(config, "outbound_owner_users_exclude", host.users) or (),
        gids_exclude=_owned(config, "outbound_owner_groups_exclude", host.groups) or (),
        virtual_interfaces=_interfaces(config, "kube_virt_interfaces"),
        interfaces_exclude=_interfaces(config, "istio_exclude_interfaces"),
        nameservers=_nameservers(config, host),
        dns_port=config.dns_capture_port,
        drop_invalid=config.drop_invalid,
        notes=(f"IPv6 is not captured: {host.no_ipv6}",) if host.no_ipv6 and config.dual_stack is None else (),
    )
    if plan.inbound == () and not (plan.networks or plan.ports or plan.nameservers):
        raise InterceptConfigError(
            "",
            "nothing would be captured: give inbound ports (-b), networks (-i), outbound ports (-q) or --redirect-dns",
        )
    return plan


def describe(plan: Plan) -> list[str]:
    """The plan in sentences, one per line."""
    lines = []
    inbound = "*" if plan.inbound is None else _shown(plan.inbound)
    if inbound:
        never = _shown((SSH, f"{OWN_PORTS[0]}-{OWN_PORTS[1]}", *plan.inbound_exclude))
        kept = ", the caller's address stays" if plan.tproxy else ""
        lines.append(f"inbound ports {inbound} -> {plan.inbound_port} ({plan.mode}{kept}); never {never}")
    if plan.networks:
        lines.append(f"outbound to {_shown(plan.networks)} -> {plan.envoy_port}")
    if plan.ports:
        lines.append(f"outbound to ports {_shown(plan.ports)} anywhere -> {plan.envoy_port}")
    if lines and (plan.networks_exclude or plan.ports_exclude):
        ports = f"ports {_shown(plan.ports_exclude)}" if plan.ports_exclude else ""
        lines.append(f"not outbound to {', '.join(filter(None, (_shown(plan.networks_exclude), ports)))}")
    if plan.nameservers:
        lines.append(f"DNS to {_shown(plan.nameservers)} -> {plan.dns_port}")
    who = [f"user {n}" for n in plan.uids or ()] + [f"group {n}" for n in plan.gids or ()]
    if who:
        lines.append(f"outbound and DNS only of {', '.join(who)}")
    out = [f"user {n}" for n in (*plan.proxy_uids, *plan.uids_exclude)]
    out += [f"group {n}" for n in (*plan.proxy_gids, *plan.gids_exclude)]
    mesh = f" but to {plan.virtual_ips}" if plan.networks or plan.ports else ""
    lines.append(f"not of {', '.join(out)}; not on loopback{mesh}; no connection that exists already")
    if plan.virtual_interfaces:
        lines.append(f"coming in on {_shown(plan.virtual_interfaces)}: as outbound")
    if plan.interfaces_exclude:
        lines.append(f"nothing on {_shown(plan.interfaces_exclude)}")
    if plan.drop_invalid:
        lines.append("TCP packets of no connection are dropped")
    return [*lines, f"families: {_shown(plan.families)}", *plan.notes]


def _shown(values: tuple[object, ...]) -> str:
    return ",".join("*" if v in ALL else str(v) for v in values if v != ALL[1] or ALL[0] not in values)


def _split(listed: Listed) -> list[str]:
    words = [listed] if isinstance(listed, str | int) else listed
    return [word.strip() for each in words for word in str(each).split(",") if word.strip()]


def _entries(config: Intercept, key: str) -> list[str]:
    given: Listed | None = getattr(config, key)
    entries = _split(given) if given is not None else []
    if len(entries) > _MAX_ENTRIES:
        raise InterceptConfigError(key, f"expected at most {_MAX_ENTRIES} entries, got {len(entries)}")
    return entries


def _port(value: str | int, key: str) -> int:
    try:
        if 1 <= (port := int(value)) <= 65535:
            return port
    except ValueError:
        pass
    raise InterceptConfigError(key, f"expected ports from 1 to 65535, got {value!r}")


def _virtual_ips(config: Intercept) -> str:
    try:
        return str(ipaddress.IPv4Network(config.virtual_ips))
    except ValueError:
        raise InterceptConfigError(
            "virtual_ips", f"expected an IPv4 network such as 127.64.0.0/10, got {config.virtual_ips!r}"
        ) from None


def _ports(config: Intercept, key: str) -> tuple[int, ...]:
    return tuple(sorted({_port(entry, key) for entry in _entries(config, key)}))


def _inbound(config: Intercept) -> tuple[int, ...] | None:
    key = "istio_inbound_ports"
    if _entries(config, key) == ["*"]:
        return None
    ports = _ports(config, key)
    for port in ports:
        if port == SSH or OWN_PORTS[0] <= port <= OWN_PORTS[1]:
            raise InterceptConfigError(key, f"{port} is never captured, it is SSH's, the agent's or Envoy's own")
    return ports


def _networks(config: Intercept, key: str, *, wildcard: bool) -> tuple[str, ...]:
    found: list[str] = []
    for entry in _entries(config, key):
        if entry == "*" and wildcard:
            found += ALL
            continue
        try:
            found.append(str(ipaddress.ip_network(entry, strict=False)))
        except ValueError as e:
            expected = "networks such as 10.0.0.0/8" + (" or *" if wildcard else "")
            raise InterceptConfigError(key, f"expected {expected}, got {entry!r}") from e
    return tuple(dict.fromkeys(found))


def _owned(config: Intercept, key: str, numbers: Mapping[str, int]) -> tuple[int, ...] | None:
    """Numbers of users or groups; None is `*`."""
    kind = "group" if "gid" in key or "groups" in key else "user"

    def each() -> Iterator[int]:
        for entry in entries:
            number = int(entry) if entry.isdecimal() and entry.isascii() else numbers.get(entry)
            if number is None or number > 0xFFFFFFFE:
                raise InterceptConfigError(key, f"there is no {kind} {entry!r} on this host")
            yield number

    entries = _entries(config, key)
    if entries == ["*"] and key in ("outbound_owner_users", "outbound_owner_groups"):
        return None
    return tuple(dict.fromkeys(each()))


def _interfaces(config: Intercept, key: str) -> tuple[str, ...]:
    entries = _entries(config, key)
    for entry in entries:
        if not _INTERFACE.fullmatch(entry) or entry == "lo":
            raise InterceptConfigError(key, f"expected interfaces such as docker0 or veth+, got {entry!r}")
    return tuple(dict.fromkeys(entries))


def _nameservers(config: Intercept, host: Host) -> tuple[str, ...]:
    if config.capture_all_dns:
        return ALL
    if not config.redirect_dns:
        return ()
    found = []
    for address in host.nameservers:
        try:
            found.append(str(ipaddress.ip_network(address.partition("%")[0])))
        except ValueError:
            continue  # what the resolver's own reader would skip too
    if not found:
        raise InterceptConfigError("redirect_dns", "/etc/resolv.conf names no server: use --capture-all-dns")
    return tuple(dict.fromkeys(found))
