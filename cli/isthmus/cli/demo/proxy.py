"""The Envoy of the demo: started from a bootstrap, watched through what it acknowledges."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from isthmus.bridge.bridge import Bridge
from isthmus.cli.demo.child import Child
from isthmus.cli.demo.programs import DemoError
from isthmus.cli.demo.registries import Entry
from isthmus.registry.model import Health, Instance, ServiceKey
from isthmus.xds.bootstrap import to_bootstrap, to_json
from isthmus.xds.resource import ResourceSnapshot
from isthmus.xds.server.status import ProxyStatus

NODE = "demo-envoy"

_GRACE = 3.0
_EVERY = 0.002
"""Seconds between two looks at what was acknowledged."""
_ACK_SECONDS = 15.0


class Proxy:
    """A running Envoy."""

    def __init__(self, version: str, bridge: Bridge, child: Child, admin_port: int) -> None:
        self.version = version
        self._bridge = bridge
        self._child = child
        self._admin = f"http://127.0.0.1:{admin_port}"

    @classmethod
    async def start(cls, program: Path, version: str, bridge: Bridge, directory: Path, admin_port: int) -> Proxy:
        """Start it, with a bootstrap that leads to the bridge."""
        host, _, port = bridge.xds_address.rpartition(":")
        bootstrap = directory / "envoy.json"
        bootstrap.write_text(to_json(to_bootstrap(NODE, "demo", host, int(port), admin_port=admin_port)))
        argv = [
            str(program),
            "-c",
            str(bootstrap),
            "--concurrency",
            "2",
            "--log-level",
            "warning",
            "--disable-hot-restart",
        ]
        child = await Child.start(argv, directory / "envoy.log", {"TMPDIR": str(directory)})
        return cls(version, bridge, child, admin_port)

    async def stop(self) -> None:
        """Stop it."""
        await self._child.stop(_GRACE)

    def status(self) -> ProxyStatus | None:
        """What the bridge knows of it; None while it is not connected."""
        return next((p for p in self._bridge.server.proxies() if p.node == NODE), None)

    def check(self) -> None:
        """Make sure that it lives and has refused nothing. Raises DemoError."""
        if self._child.status is not None:
            raise DemoError(f"Envoy ended with status {self._child.status}: {self._child.last_words()}")
        status = self.status()
        for kind in status.types if status else ():
            if kind.error:
                raise DemoError(f"Envoy refused {kind.type}: {kind.error}")

    async def listening(self) -> None:
        """Wait until the outbound listener takes connections: acknowledging one is not yet opening it. Raises DemoError."""
        port = self._bridge.config.mesh.outbound_port
        deadline = time.monotonic() + _ACK_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                self.check()
                if time.monotonic() > deadline:
                    raise DemoError(f"Envoy does not listen on port {port} of 127.0.0.1") from None
                await asyncio.sleep(_EVERY)
            else:
                writer.close()
                return

    async def acknowledged(self, service: str, entries: list[Entry]) -> float:
        """Wait until it has acknowledged everything, the service with these instances and others draining at most included.

        Returns the monotonic second. Raises DemoError when it refuses something, ends, or takes longer than 15 s.
        """
        wanted = {e.port: (e.health, e.weight) for e in entries}

        def is_there() -> bool:
            has = {i.ports.get("http"): (i.health, i.weight) for i in self._instances(service)}
            leaving = {port for port, (health, _) in has.items() if port not in wanted and health is Health.DRAINING}
            return {port: state for port, state in has.items() if port not in leaving} == wanted

        return await self._acknowledged(is_there, f"{service} was changed")

    async def gone(self, service: str, port: int) -> float:
        """Wait until it has acknowledged that an instance is not there any more, its time to drain being over.

        Returns the monotonic second. Raises DemoError when it refuses something, ends, or takes longer than 15 s.
        """

        def is_gone() -> bool:
            return all(i.ports.get("http") != port for i in self._instances(service))

        return await self._acknowledged(is_gone, f"an instance of {service} was removed")

    async def _acknowledged(self, is_carried: Callable[[], bool], what: str) -> float:
        deadline = time.monotonic() + _ACK_SECONDS
        while not (is_carried() and self._has_all(self._bridge.server.snapshot)):
            self.check()
            if time.monotonic() > deadline:
                failure = "acknowledge it" if is_carried() else "hear of it from the bridge"
                raise DemoError(f"{what}, and within {_ACK_SECONDS:.0f} s Envoy did not {failure}")
            await asyncio.sleep(_EVERY)
        return time.monotonic()

    def _instances(self, service: str) -> tuple[Instance, ...]:
        known = self._bridge.published.catalog.services.get(ServiceKey("default", service))
        return known.instances if known else ()

    def _has_all(self, snapshot: ResourceSnapshot) -> bool:
        status = self.status()
        acked = {t.type: t.acked for t in status.types} if status else {}
        return all(acked.get(t.short) == str(v) for t, v in snapshot.versions.items() if snapshot.of_type(t))

    async def statistic(self, pattern: str) -> int:
        """The sum of Envoy's counters that match a regular expression."""
        async with (
            aiohttp.ClientSession(self._admin, timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get("/stats", params={"filter": pattern, "usedonly": ""}) as response,
        ):
            lines = (await response.text()).splitlines()
        return sum(int(value) for _, _, value in (line.rpartition(": ") for line in lines) if value.isdecimal())
