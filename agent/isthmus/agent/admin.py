"""Envoy's admin page, asked with limits of time and size."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import msgspec

TIMEOUT = 5.0
MAX_BYTES = 256 << 20
"""Of an answer: statistics of a few thousand clusters are tens of megabytes."""


class AdminError(Exception):
    """Envoy's admin page did not answer, or not as it does."""


class ServerInfo(msgspec.Struct, frozen=True):
    """What an Envoy says of itself; `state` is LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING."""

    state: str
    epoch: int
    hot_restart_version: str


class Host(msgspec.Struct, frozen=True):
    """A member of a cluster."""

    address: str
    healthy: bool


class Admin:
    """The admin page at a port of 127.0.0.1, or at a socket."""

    def __init__(self, port: int, socket: str) -> None:
        self._port = port
        self._socket = socket
        self._base = f"http://127.0.0.1:{port}" if port else "http://envoy"

    def __str__(self) -> str:
        return f"127.0.0.1:{self._port}" if self._port else self._socket

    async def get(self, path: str) -> bytes:
        """Read a page.

        Raises:
            AdminError: there is no answer in time, or it is not 200, or too large.

        """
        return await self._ask("GET", path)

    async def post(self, path: str) -> None:
        """Have Envoy do something; raises like `get`."""
        await self._ask("POST", path)

    async def state(self) -> str:
        """LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING; raises like `get`."""
        return (await self._ask("GET", "/ready", accepted=(200, 503))).decode(errors="replace").strip()

    async def server_info(self) -> ServerInfo:
        """What it says of itself; raises like `get`."""
        document = await self._json("/server_info")
        try:
            options = document["command_line_options"]
            return ServerInfo(document["state"], int(options["restart_epoch"]), document["hot_restart_version"])
        except (KeyError, TypeError, ValueError):
            raise AdminError(f"Envoy's admin page at {self}: /server_info has not what it should have") from None

    async def stats(self, regex: str) -> dict[str, int]:
        """Counters and gauges whose names a regular expression matches; raises like `get`."""
        text = (await self.get(f"/stats?filter={regex}")).decode(errors="replace")
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def clusters(self) -> dict[str, list[Host]]:
        """The members of each cluster; raises like `get`."""
        document = await self._json("/clusters?format=json")
        try:
            return {
                c["name"]: [_host(h) for h in c.get("host_statuses", ())] for c in document.get("cluster_statuses", ())
            }
        except (KeyError, TypeError, AttributeError):
            raise AdminError(f"Envoy's admin page at {self}: /clusters has not what it should have") from None

    async def _json(self, path: str) -> Any:
        try:
            return json.loads(await self.get(path))
        except ValueError:
            raise AdminError(f"Envoy's admin page at {self}: {path} is not JSON") from None

    async def _ask(self, method: str, path: str, accepted: tuple[int, ...] = (200,)) -> bytes:
        connector = aiohttp.TCPConnector() if self._port else aiohttp.UnixConnector(self._socket)
        timeout = aiohttp.ClientTimeout(TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, self._base + path) as answer,
            ):
                if answer.status not in accepted:
                    said = (await answer.content.read(200)).decode(errors="replace").strip()
                    raise AdminError(f"Envoy's admin page at {self}: {path} answered {answer.status}: {said}")
                chunks: list[bytes] = []
                size = 0
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise AdminError(f"Envoy's admin page at {self}: {path} is larger than {MAX_BYTES >> 20} MiB")
                    chunks.append(chunk)
                return b"".join(chunks)
        except (TimeoutError, aiohttp.ClientError, OSError) as e:
            reason = getattr(e, "strerror", None) or str(e) or f"no answer within {TIMEOUT:g} s"
            raise AdminError(f"Envoy's admin page at {self}: {reason}") from None


def _host(document: dict[str, Any]) -> Host:
    address = document["address"]
    shown = address["socket_address"] if "socket_address" in address else {"address": address["pipe"]["path"]}
    status = document.get("health_status", {})
    failed = any(value is True for key, value in status.items() if key.startswith("failed_"))
    healthy = status.get("eds_health_status", "HEALTHY") in ("HEALTHY", "DEGRADED", "UNKNOWN") and not failed
    return Host(f"{shown['address']}:{shown.get('port_value', 0)}", healthy)
