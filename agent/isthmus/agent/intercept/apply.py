"""The transaction: plan, remember, arm the watchdog, change the kernel, verify; whatever fails is undone.

interceptor = Interceptor(config, directory)
await interceptor.apply()       # rules are in place, and go again unless they are confirmed in time
await interceptor.confirm()
await interceptor.clean()       # as if they had never been
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import msgspec

from isthmus.agent.intercept.config import Intercept
from isthmus.agent.intercept.host import may_administer, read_host
from isthmus.agent.intercept.kernel import Found, choose, complete, install, read
from isthmus.agent.intercept.plan import Plan, to_plan
from isthmus.agent.intercept.programs import InterceptError, Tools, find_tools
from isthmus.agent.intercept.state import Applied, StateFile
from isthmus.agent.intercept.undo import made_by_iptables, remove_all, remove_made, roll_back
from isthmus.agent.intercept.verify import Unverifiable, idle, verify
from isthmus.agent.intercept.watchdog import start_watchdog


class Interceptor:
    """Interception on this host, or in the network namespace in which the calling thread is."""

    def __init__(self, config: Intercept, directory: Path) -> None:
        """Without a `proxy_uid` in the configuration, it is the user of this process. `directory` is for the state file."""
        self._config = config if config.proxy_uid != "" else msgspec.structs.replace(config, proxy_uid=os.geteuid())
        self._file = StateFile(directory)
        self._notes: list[str] = []
        self._unverified: list[str] = []
        self._missing: list[str] = []
        self._idle: list[str] = []

    def problems(self) -> list[str]:
        """What is not as it could be, as of the last `apply` or `check`: sentences for the operator."""
        return [*self._notes, *self._unverified, *self._missing, *self._idle]

    async def apply(self, *, must_verify: bool = False) -> Applied:
        """Put the plan into the kernel in place of the one before, and see that it works. Existing connections go on.

        What is put there is undone after `rollback_after` unless `confirm` is called, also if this process is gone by then.
        `must_verify`: it also counts as a failure when no connection can be made that shows whether it works.

        Raises:
            InterceptConfigError: the configuration cannot be used; nothing was changed.
            InterceptError: it could not be done; everything is as it was before.

        """
        require_rights()
        plan = to_plan(self._config, read_host(self._config))
        async with self._file.locked():
            tools = await find_tools()
            found = await read(tools)
            wanted = Applied(plan, choose(self._config.backend, tools, found))
            state = self._file.read()
            pending_id = secrets.token_hex(8)
            before = state.before if state.before is not None else made_by_iptables(found.held or ())
            state = msgspec.structs.replace(state, before=before, pending=wanted, pending_id=pending_id)
            self._file.write(state)
            try:
                await start_watchdog(self._file.directory, pending_id, self._config.rollback_after)
                applied = await self._install(wanted, tools, found)
                if applied != wanted:
                    self._file.write(msgspec.structs.replace(state, pending=applied))
                remove_made(state)
                self._notes, self._missing = list(applied.plan.notes), []
                await self._verify(applied, tools, must=must_verify)
                self._idle = idle(applied.plan)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(roll_back(self._file)))
                raise
        return applied

    async def confirm(self) -> None:
        """Keep what was applied.

        Raises:
            InterceptError: nothing waits for it; what was applied has been undone.

        """
        async with self._file.locked():
            state = self._file.read()
            if state.pending is None and state.confirmed is None:
                raise InterceptError("nothing waits for confirmation: nothing was applied, or it has been rolled back")
            if state.pending is not None:
                state = msgspec.structs.replace(state, confirmed=state.pending, pending=None, pending_id="")
                self._file.write(state)

    async def clean(self) -> bool:
        """Remove everything that is ours, also what another run left; whether there was anything.

        Raises:
            InterceptError: it could not be done.

        """
        require_rights()
        async with self._file.locked():
            removed = await remove_all(self._file)
        self._notes, self._unverified, self._missing, self._idle = [], [], [], []
        return removed

    async def check(self) -> list[str]:
        """Look whether all that was applied is still in the kernel, and somebody listens where it leads. The problems.

        Raises:
            InterceptError: it could not be read.

        """
        applied = self.applied()
        if applied is None:
            self._missing, self._idle = [], []
        else:
            missing = complete(applied.plan, applied.backend, await read(await find_tools()))
            self._idle = idle(applied.plan)
            self._missing = [f"another program has removed rules: {missing}"] if missing else []
        return self.problems()

    def applied(self) -> Applied | None:
        """What this host's rules should be."""
        state = self._file.read()
        return state.pending or state.confirmed

    def is_confirmed(self) -> bool:
        """Whether nothing waits for confirmation."""
        return self._file.read().pending is None

    async def _install(self, wanted: Applied, tools: Tools, found: Found) -> Applied:
        try:
            await install(wanted.plan, wanted.backend, tools, found)
        except InterceptError as e:
            if self._config.dual_stack is not None or "ipv6" not in wanted.plan.families:
                raise
            # Half of a kernel's IPv6 may be missing; that is no reason to do without the other half of the network.
            notes = (*wanted.plan.notes, f"IPv6 is not captured: {e}")
            plan = msgspec.structs.replace(wanted.plan, families=("ipv4",), notes=notes)
            wanted = Applied(plan, wanted.backend)
            await install(plan, wanted.backend, tools, await read(tools))
        if missing := complete(wanted.plan, wanted.backend, await read(tools)):
            raise InterceptError(f"{missing}, although it was just put there")
        return wanted

    async def _verify(self, applied: Applied, tools: Tools, *, must: bool) -> None:
        self._unverified = []
        config = self._config
        for family in applied.plan.families:
            try:
                await verify(applied.plan, family, tools, config.iptables_probe_port, config.probe_timeout)
            except Unverifiable as e:
                self._unverified.append(f"{family} could not be verified: {e}")
        if must and self._unverified:
            raise InterceptError("; ".join(self._unverified))


def require_rights() -> None:
    """Refuse to begin what could not be finished.

    Raises:
        InterceptError: this process may not change rules and routes.

    """
    if not may_administer():
        raise InterceptError("this process may not change the rules of this host (CAP_NET_ADMIN): run it as root")


def plan_for(config: Intercept) -> Plan:
    """The plan on this host; needs no rights.

    Raises:
        InterceptConfigError: the configuration cannot be used.

    """
    return to_plan(config, read_host(config))
