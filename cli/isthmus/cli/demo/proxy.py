"""The Envoy of the demo: started from a bootstrap, watched through what it acknowledges."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from isthmus.bridge.bridge import Bridge
from isthmus.cli.demo.child import Child
from isthmus.cli.demo.programs import DemoError
from isthmus.cli.demo.registries import Entry
from isthmus.registry.model import ServiceKey
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
        """Wait until it has acknowledged everything, the service with exactly these instances included.

        Returns the monotonic second. Raises DemoError when it refuses something, ends, or takes longer than 15 s.
        """
        key = ServiceKey("default", service)
        wanted = {e.port: (e.health, e.weight) for e in entries}
        deadline = time.monotonic() + _ACK_SECONDS
        while True:
            known = self._bridge.catalog.services.get(key)
            has = {i.ports.get("http"): (i.health, i.weight) for i in known.instances} if known else {}
            if has == wanted and self._has_all(self._bridge.server.snapshot):
                return time.monotonic()
            self.check()
            if time.monotonic() > deadline:
                what = "acknowledge it" if has == wanted else "hear of it from the bridge"
                raise DemoError(f"{service} was changed, and within {_ACK_SECONDS:.0f} s Envoy did not {what}")
            await asyncio.sleep(_EVERY)

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
