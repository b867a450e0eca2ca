"""Keeps one Envoy running with the bootstrap that is wanted, across restarts of either of the two.

    nothing runs            start it, at epoch 0
    it runs, as wanted      leave it alone; so a restarted agent takes over what it finds
    it runs, otherwise      hot restart: the next epoch takes the listening sockets over, and the one before drains and ends
    it has ended            start it again, after a pause that grows

A hot restart waits for the bridge: the new Envoy has to be told everything once more, and without a bridge would know only what
stands in its bootstrap.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import secrets
import time
from pathlib import Path

import msgspec
import structlog

from isthmus.agent.admin import Admin, AdminError
from isthmus.agent.config import AgentConfig
from isthmus.agent.envoy import EnvoyError, Program, arguments, find, hot_restart_version, validate
from isthmus.agent.ports import check_ports
from isthmus.agent.running import Running, State, clean, end, ended, launch, read_state, write_state
from isthmus.registry.atomic import write_atomically

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
STEADY = 30.0
"""Seconds that an Envoy has to run for its end not to count as one more failure in a row."""
TAKE_OVER = 60.0
"""Seconds for the next epoch to become live: it waits up to 15 for the bridge."""
_LOOK_AGAIN = 2.0


class Proxy:
    """The Envoy of one agent. `want` says how it shall be, `run` makes it so."""

    def __init__(self, config: AgentConfig, admin: Admin, *, json_logs: bool) -> None:
        self.admin = admin
        self.program: Program | None = None
        self.restarts = 0
        self.problem = ""
        """Why it is not as wanted; empty when it is, or is about to be."""
        self._config = config
        self._json_logs = json_logs
        self._directory = Path(config.config_path)
        self._state_file = self._directory / "envoy.json"
        self._state = read_state(self._state_file)
        self._bootstrap = ""
        self._to_look = True
        self._validated: tuple[Program, str] | None = None
        self._wanted = asyncio.Event()

    @property
    def running(self) -> Running | None:
        """The newest one that is there."""
        return self._state.envoys[-1] if self._state.envoys else None

    @property
    def address(self) -> str:
        """The address that this machine was last known by."""
        return self._state.address

    async def prepare(self, config: AgentConfig, bootstrap: str, address: str) -> None:
        """Say how it shall be, before `run`, and look whether that can be.

        Raises:
            EnvoyError: there is no program for it, a port is taken, or it refuses the bootstrap.

        """
        self.want(config, bootstrap, address)
        program = await self._look()
        if self.running is None:
            check_ports(bootstrap, "")
            await self._validate(program, 0)

    def want(self, config: AgentConfig, bootstrap: str, address: str) -> None:
        """Say how it shall be."""
        self._config = config
        self._bootstrap = bootstrap
        self._state = msgspec.structs.replace(self._state, address=address)
        self._to_look = True
        self._wanted.set()

    async def run(self) -> None:
        """Keep it so until cancelled. It then goes on running."""
        failures = 0
        if self.running is not None:
            log.info("envoy.adopted", pid=self.running.pid, epoch=self.running.epoch)
        while True:
            self._wanted.clear()
            running = self.running
            began = time.monotonic()
            look_again = None
            try:
                if self._to_look:
                    await self._look()
                if running is None:
                    await self._start()
                elif running.digest != self._digest(running.epoch):
                    look_again = await self._replace(running)
            except (EnvoyError, OSError) as e:
                self._report(str(e))
            running = self.running
            if running is not None and not await self._until(running, look_again):
                continue
            if running is not None:
                self._forget(running)
                log.error("envoy.ended", pid=running.pid, epoch=running.epoch, ran_s=round(time.monotonic() - began, 1))
                self.restarts += 1
                if self.running is not None:
                    continue  # the one before, which it should have taken over from
            failures = 1 if time.monotonic() - began > STEADY else failures + 1
            if failures > 1 or running is None:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)) * random.uniform(0.5, 1)  # noqa: S311
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()

    async def drain(self) -> None:
        """Ask callers to go elsewhere: each answer ends its connection. Calls to other services go on."""
        await self.admin.post("/drain_listeners?graceful&skip_exit&inboundonly")

    async def stop(self) -> None:
        """End it, and those that were draining, and what they leave behind."""
        envoys = self._state.envoys
        await asyncio.gather(*(end(e) for e in envoys))
        for e in envoys:
            self._forget(e)
        clean(self._directory, self._state.base_id)

    async def _until(self, running: Running, look_again: float | None) -> bool:
        """Wait until it has ended (True), or another one is wanted or it is time to look again (False)."""
        gone, wanted = asyncio.create_task(ended(running)), asyncio.create_task(self._wanted.wait())
        try:
            await asyncio.wait((gone, wanted), timeout=look_again, return_when=asyncio.FIRST_COMPLETED)
            return gone.done()
        finally:
            for task in (gone, wanted):
                task.cancel()
            await asyncio.gather(gone, wanted, return_exceptions=True)

    async def _look(self) -> Program:
        """Look at the program again: it may have been upgraded."""
        self.program = await find(self._config.binary_path)
        self._to_look = False
        return self.program

    async def _start(self) -> None:
        program = self.program or await self._look()
        await self._validate(program, 0)
        check_ports(self._bootstrap, "")
        clean(self._directory, self._state.base_id)
        self._state = msgspec.structs.replace(self._state, base_id=self._state.base_id or secrets.randbelow(10**8) + 1)
        running = await self._launch(0, self._state.base_id)
        log.info("envoy.started", pid=running.pid, version=program.version)
        self.problem = ""

    async def _replace(self, running: Running) -> float | None:
        """Hot restart; returns after how many seconds to try again, where that may help.

        Raises:
            EnvoyError: the next epoch cannot be started, or did not take over. The one that runs goes on.

        """
        try:
            info = await self.admin.server_info()
            if not await self._has_bridge():
                self._report("a change of the bootstrap waits until the bridge answers", deferred=True)
                return _LOOK_AGAIN
        except AdminError as e:
            self._report(f"a change of the bootstrap waits: {e}", deferred=True)
            return _LOOK_AGAIN
        program = await self._look()
        handover = await hot_restart_version(program)
        if handover != info.hot_restart_version:
            raise EnvoyError(
                f"Envoy {program.version} cannot take over from the one that runs: hot restart version {handover} against "
                f"{info.hot_restart_version}; restart the agent's service"
            )
        epoch = running.epoch + 1
        await self._validate(program, epoch)
        check_ports(self._bootstrap, _read(self._bootstrap_file(running.epoch)))
        child = await self._launch(epoch, running.base_id)
        deadline = time.monotonic() + TAKE_OVER
        while child.alive and time.monotonic() < deadline:
            with contextlib.suppress(AdminError):
                info = await self.admin.server_info()
                if info.epoch == epoch and info.state == "LIVE":
                    log.info("envoy.restarted", pid=child.pid, epoch=epoch, version=program.version)
                    self.problem = ""
                    return None
            await asyncio.sleep(0.05)
        await end(child)
        self._forget(child)
        raise EnvoyError(
            f"the Envoy of epoch {epoch} did not take over, see its log above; the one of epoch {running.epoch} goes on "
            "with the bootstrap that it has: restart the agent's service"
        )

    async def _validate(self, program: Program, epoch: int) -> None:
        """Write the bootstrap down, and have Envoy read it, unless it has read the same one before."""
        file = self._write_bootstrap(epoch)
        if self._validated != (program, self._bootstrap):
            await validate(program, file)
        self._validated = (program, self._bootstrap)

    async def _has_bridge(self) -> bool:
        if self._config.outbound_mode == "NONE":
            return True
        return (await self.admin.stats(r"^control_plane\.connected_state$")).get("control_plane.connected_state") == 1

    async def _launch(self, epoch: int, base_id: int) -> Running:
        path = self.program.path if self.program else ""
        command = [path, *self._arguments(epoch)]
        running = await launch(command, self._directory, epoch, base_id, self._digest(epoch))
        # Before anything else: an agent that is killed now finds it all the same.
        self._keep(msgspec.structs.replace(self._state, envoys=(*self._state.envoys, running)))
        return running

    def _arguments(self, epoch: int) -> list[str]:
        return arguments(self._config, self._bootstrap_file(epoch), json_logs=self._json_logs)

    def _digest(self, epoch: int) -> str:
        """What an Envoy that is as wanted was started with. The bootstrap's path is not part of it: it has the epoch."""
        version = self.program.version if self.program else ""
        parts = (self._bootstrap, version, *self._arguments(epoch)[2:])
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def _bootstrap_file(self, epoch: int) -> Path:
        return self._directory / f"bootstrap-{epoch}.json"

    def _write_bootstrap(self, epoch: int) -> Path:
        file = self._bootstrap_file(epoch)
        write_atomically(file, self._bootstrap.encode())
        for old in self._directory.glob("bootstrap-*.json"):
            number = old.stem.rpartition("-")[2]
            if old != file and number.isdecimal() and not (epoch and int(number) == epoch - 1):
                old.unlink(missing_ok=True)
        return file

    def _keep(self, state: State) -> None:
        alive = tuple(e for e in state.envoys if e.alive)
        self._state = msgspec.structs.replace(state, envoys=alive)
        write_state(self._state_file, self._state)

    def _forget(self, running: Running) -> None:
        self._keep(msgspec.structs.replace(self._state, envoys=tuple(e for e in self._state.envoys if e != running)))

    def _report(self, problem: str, *, deferred: bool = False) -> None:
        if problem != self.problem and deferred:
            log.warning("envoy.restart_deferred", reason=problem)
        elif problem != self.problem:
            log.warning("envoy.problem", reason=problem)
        self.problem = problem


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
