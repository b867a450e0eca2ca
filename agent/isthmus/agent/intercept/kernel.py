"""The kernel's rules and routes: read by the programs that are made for it, and changed by them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.agent.intercept import netlink
from isthmus.agent.intercept.chains import Table, to_tables
from isthmus.agent.intercept.config import Backend, BackendChoice
from isthmus.agent.intercept.iptables import is_complete, parse_save, to_restore
from isthmus.agent.intercept.netlink import Held
from isthmus.agent.intercept.nftables import TABLE, to_nft
from isthmus.agent.intercept.plan import Family, Plan
from isthmus.agent.intercept.programs import IPTABLES, InterceptError, Tools, run
from isthmus.agent.intercept.routes import OPTION, Entry, parse_entries, to_commands

_FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")


class _Address(msgspec.Struct):
    local: str = ""
    prefixlen: int = 0


class _Way(msgspec.Struct):
    dev: str = ""
    type: str = "unicast"


class _Interface(msgspec.Struct):
    ifname: str = ""
    addr_info: list[_Address] = []


class Found(msgspec.Struct, frozen=True):
    """What the kernel has."""

    saves: Mapping[tuple[Backend, Family], str]
    """What iptables-save prints, of each kind that is installed."""
    held: frozenset[Held] | None
    """Tables and chains of nf_tables; None where the kernel has none."""
    rules: Mapping[Family, tuple[Entry, ...]]
    routes: Mapping[Family, tuple[Entry, ...]]
    """Local ones, of all tables."""

    @property
    def ours(self) -> bool:
        """Whether anything of ours is there."""
        return bool(
            any(part.chains or part.jumps for save in self.saves.values() for part in parse_save(save).values())
            or any(h.table == TABLE for h in self.held or ())
            or any(entry.ours for entries in (*self.rules.values(), *self.routes.values()) for entry in entries)
        )


async def read(tools: Tools) -> Found:
    """Read what is there.

    Raises:
        InterceptError: a program failed.

    """
    try:
        held = netlink.held()
    except OSError:
        held = None
    saves = {}
    for (backend, family), name in tools.iptables.items():
        if backend == "iptables-legacy" or held is not None:
            saves[backend, family] = await run(f"{name}-save")
    rules: dict[Family, tuple[Entry, ...]] = {}
    routes: dict[Family, tuple[Entry, ...]] = {}
    for family in _FAMILIES:
        shown = (tools.ip, OPTION[family], "-N", "-j")
        with contextlib.suppress(InterceptError):  # a kernel without IPv6
            rules[family] = parse_entries(await run(*shown, "rule", "show"))
            routes[family] = parse_entries(await run(*shown, "route", "show", "table", "all", "type", "local"))
    return Found(saves, held, rules, routes)


def choose(wanted: BackendChoice, tools: Tools, found: Found) -> Backend:
    """The back end that others use here already, so that the order of all rules is plain; else nftables, else what is there.

    Raises:
        InterceptError: the wanted one, or any, is not there.

    """
    there: list[Backend] = [backend for backend in IPTABLES if (backend, "ipv4") in found.saves]
    native: list[Backend] = ["nft"] if tools.nft and found.held is not None else []
    usable: list[Backend] = [*native, *reversed(there)]
    if wanted != "auto":
        if wanted not in usable:
            raise InterceptError(
                f"there is no {wanted} here; there is {', '.join(usable) or 'none of the others either'}"
            )
        return wanted
    for backend in there:
        saves = [save for (kind, _), save in found.saves.items() if kind == backend]
        if any(part.foreign for save in saves for part in parse_save(save).values()):
            return backend
    if not usable:
        raise InterceptError("neither nft nor iptables is on PATH: install nftables or iptables")
    return usable[0]


async def install(plan: Plan, backend: Backend, tools: Tools, found: Found) -> None:
    """Make our part of the kernel's rules those of the plan, and remove what another back end has of ours.

    Raises:
        InterceptError: a program failed; some of it may be there.

    """
    await _check_route_table(plan, tools, found)
    for family in _FAMILIES:
        for words in to_commands(plan, family, found.rules.get(family, ()), found.routes.get(family, ())):
            await run(tools.ip, *words)
    tables: dict[Family, tuple[Table, ...]] = {family: to_tables(plan, family) for family in plan.families}
    if backend == "nft":
        await run(tools.nft or "nft", "-f", "-", text=to_nft(tables))
    else:
        for family in reversed(_FAMILIES):  # IPv4 last: what is installed most is changed last
            await _restore(tools, found, backend, family, tables.get(family, ()))
    await _remove_rules(tools, found, but=backend)


async def remove(tools: Tools, found: Found) -> None:
    """Remove all that is ours, whichever back end put it there.

    Raises:
        InterceptError: a program failed; some of it may be left.

    """
    await _remove_rules(tools, found)
    for family in _FAMILIES:
        for words in to_commands(None, family, found.rules.get(family, ()), found.routes.get(family, ())):
            await run(tools.ip, *words)


def complete(plan: Plan, backend: Backend, found: Found) -> str:
    """What of a plan the kernel lacks, in words; empty when it has everything."""
    for family in plan.families:
        tables = to_tables(plan, family)
        if backend == "nft":
            chains = {h.chain for h in found.held or () if h.family == family and h.table == TABLE}
            wanted = {chain.name for table in tables for chain in table.chains}
            if not wanted <= chains:
                return f"the table {TABLE} for {family} is not complete"
        elif not is_complete(tables, found.saves.get((backend, family), "")):
            return f"chains for {family} are not complete"
        if to_commands(plan, family, found.rules.get(family, ()), found.routes.get(family, ())):
            return f"the routing rule for {family} is not there"
    return ""


async def way_to(tools: Tools, address: str) -> str:
    """The interface by which an address is reached; `lo` for one of this host, empty when there is no route."""
    try:
        routes = msgspec.json.decode(await run(tools.ip, "-j", "route", "get", address), type=list[_Way])
    except InterceptError:
        return ""
    return routes[0].dev if routes and routes[0].type == "unicast" else "lo"


async def networks(tools: Tools) -> list[str]:
    """Addresses of this host's interfaces with the sizes of their networks, `10.0.0.5/24`.

    Raises:
        InterceptError: a program failed.

    """
    interfaces = msgspec.json.decode(await run(tools.ip, "-j", "address", "show", "up"), type=list[_Interface])
    return [f"{a.local}/{a.prefixlen}" for i in interfaces for a in i.addr_info if a.local and i.ifname != "lo"]


async def _restore(tools: Tools, found: Found, backend: Backend, family: Family, tables: Sequence[Table]) -> None:
    name = tools.iptables.get((backend, family))
    text = to_restore(tables, found.saves.get((backend, family), ""))
    if text and name is None:
        raise InterceptError(f"there is no {backend} for {family} here (ip6tables)")
    if text:
        await run(f"{name}-restore", "--noflush", "-w", "10", text=text)


async def _remove_rules(tools: Tools, found: Found, but: Backend | None = None) -> None:
    for backend, family in found.saves:
        if backend != but:
            await _restore(tools, found, backend, family, ())
    for family in _FAMILIES:
        if but != "nft" and Held(family, TABLE) in (found.held or ()):
            try:
                netlink.remove_table(family, TABLE)
            except OSError as e:
                raise InterceptError(f"the table {TABLE} of nf_tables cannot be removed: {e}") from e


async def _check_route_table(plan: Plan, tools: Tools, found: Found) -> None:
    """Refuse a routing table that somebody else uses."""
    if not plan.tproxy:
        return
    for family in plan.families:
        try:
            shown = await run(tools.ip, OPTION[family], "-N", "-j", "route", "show", "table", str(plan.route_table))
        except InterceptError:
            continue  # there is no such table yet
        foreign = [entry for entry in parse_entries(shown) if not entry.ours]
        if foreign or any(
            rule.table == str(plan.route_table) and not rule.ours for rule in found.rules.get(family, ())
        ):
            raise InterceptError(f"the routing table {plan.route_table} is in use by another program: choose one by -r")
