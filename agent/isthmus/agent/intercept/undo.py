"""Back to the plan that was confirmed last, or to a host that was never touched. Callers hold the lock of the state file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from isthmus.agent.intercept import netlink
from isthmus.agent.intercept.kernel import install, read, remove
from isthmus.agent.intercept.netlink import NUMBERS, Held
from isthmus.agent.intercept.programs import InterceptError, find_tools
from isthmus.agent.intercept.state import State, StateFile


async def roll_back(file: StateFile) -> None:
    """Undo what is not confirmed.

    Raises:
        InterceptError: a program failed.

    """
    state = file.read()
    if state.confirmed is None:
        await remove_all(file)
        return
    tools = await find_tools()
    await install(state.confirmed.plan, state.confirmed.backend, tools, await read(tools))
    remove_made(state)
    file.write(msgspec.structs.replace(state, pending=None, pending_id=""))


async def remove_all(file: StateFile) -> bool:
    """Remove everything that is ours, confirmed or not, remembered or not; whether there was anything.

    Raises:
        InterceptError: a program failed, or something is left.

    """
    tools = await find_tools()
    found = await read(tools)
    state = file.read()
    await remove(tools, found)
    remove_made(state)
    if found.ours and (await read(tools)).ours:
        raise InterceptError("some rules are still there after they were removed: another program puts them back")
    file.forget()
    return found.ours


def made_by_iptables(held: Iterable[Held]) -> tuple[Held, ...]:
    """Those that `iptables-nft` makes when it is told to put a rule where ours are."""
    return tuple(h for h in _candidates() if h in set(held))


def remove_made(state: State) -> None:
    """Remove what iptables-nft made for a plan and nothing is in any more.

    Raises:
        InterceptError: the kernel did not answer.

    """
    if state.before is None:
        return
    for each in _candidates():
        if each not in state.before:
            try:
                netlink.remove_empty(each)
            except OSError as e:
                raise InterceptError(f"{each.table} {each.chain} of nf_tables cannot be removed: {e}") from e


def _candidates() -> Iterator[Held]:
    """Chains before their tables."""
    for family in NUMBERS:
        for table in ("raw", "mangle", "nat"):
            yield Held(family, table, "PREROUTING")
            yield Held(family, table, "OUTPUT")
            yield Held(family, table)
