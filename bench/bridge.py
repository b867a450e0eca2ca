"""The bridge under measurement: `isthmus serve` in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers.process import Process, free_port
from tests.wait import eventually


class Bridge(Process):
    """One bridge that reads one Consul, with `options` of the registry. All else is as one gets it who configures nothing."""

    def __init__(self, directory: Path, consul: str, options: Mapping[str, Any]) -> None:
        directory.mkdir()
        self.xds_port, self.http_port, self.outbound_port = free_port(), free_port(), free_port()
        config = directory / "isthmus.yaml"
        document = {
            "registries": [{"name": "consul", "type": "consul", "address": consul, **options}],
            "mesh": {"outbound_port": self.outbound_port},
            "xds": {"address": f"127.0.0.1:{self.xds_port}"},
            "http": {"address": f"127.0.0.1:{self.http_port}"},
            "state_dir": str(directory / "state"),
        }
        config.write_text(json.dumps(document))  # JSON is YAML
        isthmus = Path(sys.executable).with_name("isthmus")
        super().__init__([isthmus, "serve", "-c", config], directory / "isthmus.log")

    async def ready(self, timeout: float = 60) -> None:
        """Wait until it has read all of Consul."""

        async def synced() -> bool:
            assert self.running, f"the bridge ended: {self.output()[-3000:]}"
            state = json.loads(await self._get("/readyz"))
            return bool(state["ready"] and state["registries"]["consul"]["synced"])

        await eventually(synced, "the bridge has read all of Consul", timeout)

    async def metric(self, name: str) -> float:
        """The sum of all samples of one metric."""
        samples = [line.rpartition(" ") for line in (await self._get("/metrics")).splitlines()]
        return sum(float(value) for key, _, value in samples if key.partition("{")[0] == name)

    async def _get(self, path: str) -> str:
        timeout = aiohttp.ClientTimeout(total=10)
        url = f"http://127.0.0.1:{self.http_port}{path}"
        # While it starts, /readyz says 503 with the same document.
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return await answer.text()
