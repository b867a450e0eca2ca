"""A real Envoy that takes its configuration from a bridge under test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from isthmus.xds.bootstrap import ClientTLS, to_bootstrap, to_json
from tests.peers import ENVOYS
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

LATEST = ENVOYS[-1]


class Updates(msgspec.Struct, frozen=True):
    """What an Envoy has counted of one type's subscriptions. It attempts once when it subscribes, and once per response."""

    attempted: int = 0
    accepted: int = 0
    rejected: int = 0
    timed_out: int = 0


_UPDATES = {
    "update_attempt": "attempted",
    "update_success": "accepted",
    "update_rejected": "rejected",
    "init_fetch_timeout": "timed_out",
}
_SUBSCRIPTIONS = {
    "CDS": r"cluster_manager\.cds",
    "EDS": r"cluster\..*",
    "LDS": r"listener_manager\.lds",
    "RDS": r"http\..*\.rds\..*",
}


class Envoy(Process):
    """Envoy with its admin page on a free port, one worker thread, and hot restart off."""

    def __init__(
        self,
        directory: Path,
        xds_address: str,
        version: str = LATEST,
        *,
        node: str = "envoy",
        delta: bool = True,
        edit: Callable[[Bootstrap], None] = lambda _: None,
        tls: ClientTLS | None = None,
    ) -> None:
        """`edit` changes the bootstrap, where a test is about what ours does not ask for."""
        self.admin_port = free_port()
        self.node = node
        host, _, port = xds_address.rpartition(":")
        config = directory / f"{node}.json"
        bootstrap = to_bootstrap(node, "test", host, int(port), admin_port=self.admin_port, delta=delta, tls=tls)
        edit(bootstrap)
        config.write_text(to_json(bootstrap))
        super().__init__(
            [
                peer_binary("envoy", version),
                *("-c", config),
                *("--concurrency", "1"),
                *("-l", "warning"),
                "--disable-hot-restart",
                "--use-dynamic-base-id",
            ],
            directory / f"{node}.log",
        )

    async def admin(self, path: str) -> bytes:
        """The body of an admin page."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=aiohttp.ClientTimeout(10)) as answer,
        ):
            assert answer.status == 200, f"{path}: {answer.status}"
            return await answer.read()

    async def ready(self, timeout: float = 20) -> None:
        """Wait until it is live: all clusters and listeners that it was sent first are warm."""

        async def live() -> bool:
            assert self.running, f"envoy ended: {self.output()}"
            return b"LIVE" in await self.admin("/ready")

        await eventually(live, "envoy is live", timeout)

    async def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges whose names begin with a prefix."""
        text = (await self.admin(f"/stats?filter=^{prefix}&usedonly")).decode()
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def updates(self) -> dict[str, Updates]:
        """By CDS, EDS, LDS and RDS; that of EDS is the sum of all clusters."""
        found = {}
        for kind, subscription in _SUBSCRIPTIONS.items():
            stats = await self.stats(rf"{subscription}\.({'|'.join(_UPDATES)})$")
            counts = dict.fromkeys(_UPDATES.values(), 0)
            for name, value in stats.items():
                counts[_UPDATES[name.rpartition(".")[2]]] += value
            found[kind] = Updates(**counts)
        return found

    async def active(self, cluster: str) -> dict[str, Any] | None:
        """A cluster that is in use, as Envoy was sent it; None while it is warming or not there."""
        document = json.loads(
            await self.admin(f"/config_dump?resource=dynamic_active_clusters&name_regex=^{re.escape(cluster)}$")
        )
        found: list[dict[str, Any]] = [c["cluster"] for c in document.get("configs", ())]
        return next((c for c in found if c["name"] == cluster), None)

    async def rejected(self) -> dict[str, int]:
        """Statistics of refused or timed out configuration that are not zero; empty when all is well."""
        stats = await self.stats("(cluster_manager|listener_manager|http|cluster)")
        return {
            n: v
            for n, v in stats.items()
            if v
            and n.endswith((".update_rejected", "init_fetch_timeout", "lds.update_rejected", "cds.update_rejected"))
        }

    async def endpoints(self, cluster: str) -> dict[str, str]:
        """Address to health flags, as Envoy routes by them, of one cluster."""
        document: dict[str, Any] = json.loads(await self.admin("/clusters?format=json"))
        for status in document.get("cluster_statuses", ()):
            if status["name"] == cluster:
                return {
                    f"{h['address']['socket_address']['address']}:{h['address']['socket_address']['port_value']}": h[
                        "health_status"
                    ].get("eds_health_status", "HEALTHY")
                    for h in status.get("host_statuses", ())
                }
        return {}
