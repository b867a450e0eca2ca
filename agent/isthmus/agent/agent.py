"""One agent: Envoy, the registrations and probes of its services, DNS and the status port, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import tempfile
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from isthmus.agent.admin import Admin, AdminError
from isthmus.agent.answers import AgentStatus, EnvoyStatus, ServiceStatus
from isthmus.agent.bootstrap import admin_socket, to_agent_bootstrap, to_text
from isthmus.agent.config import AgentConfig
from isthmus.agent.dns.server import ListenError
from isthmus.agent.envoy import EnvoyError, find, validate
from isthmus.agent.machine import MachineError, find_address, has_ipv6, lock
from isthmus.agent.names import NamesOfMesh, resolvers
from isthmus.agent.proxy import Proxy
from isthmus.agent.services import Services
from isthmus.agent.status import applications

log = structlog.get_logger()

FIXED = (
    *("address", "config_path", "discovery_tls", "dns", "intercept", "interception_mode", "node"),
    *("proxy_admin_port", "readiness_port", "status_port"),
)
"""Fields of the configuration that need a restart of the agent."""


class StartError(Exception):
    """The agent cannot start, or cannot take a configuration over; one sentence for the operator."""


class Agent:
    """From `start` to `stop` or `abandon`; `failed` ends when something in it does that should not."""

    def __init__(self, config: AgentConfig, *, json_logs: bool) -> None:
        self.config = config
        self.version = version("isthmus")
        self.registry = CollectorRegistry()
        self.proxy = Proxy(config, Admin(config.proxy_admin_port, admin_socket(config)), json_logs=json_logs)
        self.draining = False
        """Callers are asked to go elsewhere, or have been."""
        self._asked = math.inf
        """The loop's time at which all of them had been."""
        self.ending = asyncio.Event()
        """Set by who wants it to end."""
        self._address = ""
        self._configured = -1
        """How often Envoy had ended before the one that has been told something by the bridge."""
        self._services: Services | None = None
        self._names: NamesOfMesh | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Start everything, or nothing.

        Raises:
            StartError: something cannot be started.

        """
        try:
            self._stack.callback(os.close, lock(Path(self.config.config_path)))
            self._address = find_address(self.config, self.proxy.address)
            await self.proxy.prepare(self.config, self._bootstrap(self.config), self._address)
            self._services = self._to_services()
            await self._serve_status()
            if self.config.dns is not None:
                self._names = NamesOfMesh(self.config, self.config.dns, self.registry)
                await self._names.start()
                self._stack.push_async_callback(self._names.stop)
        except BaseException as e:
            await self._stack.aclose()
            if isinstance(e, EnvoyError | ListenError | MachineError):
                raise StartError(str(e)) from None
            if isinstance(e, OSError):
                raise StartError(f"{e.filename}: {e.strerror}" if e.filename else str(e)) from None
            raise
        self._run(self.proxy.run(), "envoy")
        self._run(self._services.run(), "services")
        self._run(self._watch_proxy(self._services), "proxy watch")
        if self._names is not None:
            self._run(self._names.run(), "names")

    async def check(self) -> str:
        """Look whether it could start, and change nothing; returns Envoy's version.

        Raises:
            StartError: it could not.
            EnvoyError: there is no Envoy that will do, or it refuses the bootstrap.

        """
        self._address = self._find()
        program = await find(self.config.binary_path)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "bootstrap.json"
            file.write_text(self._bootstrap(self.config))
            await validate(program, file)
        return program.version

    def bootstrap(self) -> str:
        """The bootstrap that its Envoy would be given.

        Raises:
            StartError: this machine's address is not known.

        """
        self._address = self._find()
        return self._bootstrap(self.config)

    async def reload(self, config: AgentConfig) -> None:
        """Take another configuration over.

        Raises:
            StartError: it changes what needs a restart; then nothing of it is taken over.

        """
        changed = [name for name in FIXED if getattr(config, name) != getattr(self.config, name)]
        if changed:
            named = ", ".join(_written(name) for name in changed)
            raise StartError(f"a change of {named} needs a restart of the agent; nothing of the new file is in effect")
        if self._services is not None:
            try:
                await self._services.reload(config)
            except ValueError as e:
                raise StartError(str(e)) from None
        self.proxy.want(config, self._bootstrap(config), self._address)
        self.config = config
        log.info("agent.reloaded", services=[s.name for s in config.services])

    async def failed(self) -> None:
        """Wait for the end of something that should not end; raises what it ended with."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
        raise RuntimeError(f"{', '.join(task.get_name() for task in done)} ended")

    async def drain(self) -> None:
        """Ask callers to go elsewhere; returns when the registry knows. The agent goes on."""
        if not self.draining:
            log.info("agent.draining")
        self.draining = True
        if self._services is not None:
            await self._services.drain()
        with contextlib.suppress(AdminError):
            await self.proxy.drain()
        self._asked = min(self._asked, asyncio.get_running_loop().time())

    async def quit(self) -> None:
        """Have it drain and end."""
        self.ending.set()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drain, wait, withdraw, and end Envoy; `hurry` ends the waiting. What was drained before has waited some of it."""
        await self.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._asked + self.config.termination_drain_duration):
                await hurry.wait()
        if self._services is not None:
            await self._services.withdraw()
        await self.abandon()
        await self.proxy.stop()

    async def abandon(self) -> None:
        """End all but Envoy, which goes on, and what is registered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def missing(self) -> list[str]:
        """Why it is not ready; empty when it is."""
        if self.draining:
            return ["it is draining"]
        running = self.proxy.running
        if running is None:
            return [f"Envoy does not run{': ' if self.proxy.problem else ''}{self.proxy.problem}"]
        try:
            state = await self.proxy.admin.state()
            if state != "LIVE":
                return [f"Envoy is {state}"]
            if self.config.outbound_mode != "NONE" and self._configured != self.proxy.restarts:
                counts = await self.proxy.admin.stats(r"^(cluster_manager\.cds|listener_manager\.lds)\.update_success$")
                kinds = 1 if self.config.outbound_mode == "EXPLICIT" else 2
                if sum(count > 0 for count in counts.values()) < kinds:
                    return [f"the bridge at {' or '.join(self.config.bridges)} has not told this Envoy anything yet"]
                self._configured = self.proxy.restarts
        except AdminError as e:
            return [str(e)]
        return []

    def services(self) -> tuple[ServiceStatus, ...]:
        """How each service is doing."""
        return self._services.status() if self._services else ()

    def problems(self) -> tuple[str, ...]:
        """What is not as configured, in sentences."""
        found = [self.proxy.problem] if self.proxy.problem else []
        for part in (self._services, self._names):
            found += part.problems() if part else []
        return tuple(found)

    async def status(self, *, with_upstreams: bool = False) -> AgentStatus:
        """All that there is to say; what Envoy knows of thousands of clusters only where that is asked for."""
        missing = await self.missing()
        upstreams = {}
        if with_upstreams:
            with contextlib.suppress(AdminError):
                clusters = await self.proxy.admin.clusters()
                upstreams = {name: sum(h.healthy for h in hosts) for name, hosts in clusters.items()}
        running, program = self.proxy.running, self.proxy.program
        envoy = EnvoyStatus(
            running.pid if running else 0,
            running.epoch if running else 0,
            program.version if program else "",
            self.proxy.restarts,
            self.proxy.problem,
        )
        return AgentStatus(
            node=self.config.node,
            address=self._address,
            ready=not missing,
            draining=self.draining,
            missing=tuple(missing),
            problems=self.problems(),
            envoy=envoy,
            services=self.services(),
            dns=self._names.known if self._names else None,
            upstreams=upstreams,
        )

    def _to_services(self) -> Services:
        try:
            return Services(self.config, self._address)
        except ValueError as e:
            raise StartError(str(e)) from None

    def _find(self) -> str:
        try:
            return find_address(self.config, self.proxy.address)
        except MachineError as e:
            raise StartError(str(e)) from None

    def _bootstrap(self, config: AgentConfig) -> str:
        asked = resolvers(config.dns)
        made = to_agent_bootstrap(config, self._address, ipv6=has_ipv6(), version=self.version, resolvers=asked)
        return to_text(made)

    async def _serve_status(self) -> None:
        status, readiness = applications(self)
        ports = (
            ("statusPort", status, self.config.status_port),
            ("readinessPort", readiness, self.config.readiness_port),
        )
        for name, app, port in ports:
            if not port:
                continue
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            self._stack.push_async_callback(runner.cleanup)
            for host in dict.fromkeys(("127.0.0.1", self.config.inbound_address or self._address)):
                try:
                    await web.TCPSite(runner, host, port).start()
                except OSError as e:
                    reason = os.strerror(e.errno) if e.errno else str(e)
                    raise StartError(f"{name}: cannot listen on {host} port {port}: {reason}") from None

    async def _watch_proxy(self, services: Services) -> None:
        """A service whose proxy takes no calls is as unwell as one that does not run."""
        while True:
            try:
                state = await self.proxy.admin.state()
                down = "" if state in ("LIVE", "DRAINING") else f"Envoy is {state}"
            except AdminError as e:
                down = str(e)
            services.proxy_is(down)
            await asyncio.sleep(0.2 if down else 1.0)

    def _run(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(coroutine, name=name))


def _written(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(word.title() for word in others)
