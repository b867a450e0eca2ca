"""The bridge as people run it: `isthmus serve`, in a process that a test can kill."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.servers.netns import Machine
from tests.servers.process import Process, free_port
from tests.wait import eventually


class BridgeProcess(Process):
    """One bridge, with its state in its own directory. It has its ports for good."""

    def __init__(
        self,
        directory: Path,
        registries: Sequence[Mapping[str, Any]],
        outbound: int,
        machine: Machine | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._machine = machine
        host = machine.address if machine else "127.0.0.1"
        self.xds = f"{host}:{free_port()}"
        self.http = f"{host}:{free_port()}"
        settings = {
            "registries": list(registries),
            "mesh": {"outbound_port": outbound},
            "xds": {"address": self.xds},
            "http": {"address": self.http},
            "drain": {"grace": 0},
            "state_dir": "state",
        }
        file = directory / "isthmus.yaml"
        file.write_text(yaml.safe_dump(settings))
        isthmus = Path(sys.executable).parent / "isthmus"
        argv: list[str | Path] = [isthmus, "serve", "-c", file]
        super().__init__(machine.command(*argv) if machine else argv, directory / "serve.log")

    async def ready(self) -> None:
        """Wait until its registries are listed."""

        async def answers() -> bool:
            if not self.running:
                raise RuntimeError(f"the bridge has ended:\n{self.output()[-3000:]}")
            connector = aiohttp.TCPConnector(socket_factory=self._machine.socket if self._machine else None)
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://{self.http}/readyz") as answer,
            ):
                return answer.status == 200

        await eventually(answers, "the bridge is ready", 30)
