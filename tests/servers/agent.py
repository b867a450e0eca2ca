"""The agent as people run it: `isthmus agent`, in a process that a test can kill, on this machine or another one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from isthmus.agent.answers import AgentStatus
from isthmus.agent.running import clean, read_state
from tests.peers import ENVOYS
from tests.servers.netns import Machine
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

ISTHMUS = Path(sys.executable).parent / "isthmus"


class AgentProcess(Process):
    """One agent, with its state in its own directory. Its Envoy outlives it; `stop` and `close` see to that."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        machine: Machine | None = None,
        *,
        version: str = ENVOYS[-1],
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.machine = machine
        self.file = directory / "agent.yaml"
        self.settings: dict[str, Any] = {
            "address": machine.address if machine else "127.0.0.1",
            "node": machine.name if machine else "here",
            "binaryPath": str(peer_binary("envoy", version)),
            "configPath": "state",
            "concurrency": 1,
            "proxyAdminPort": 0,
            "terminationDrainDuration": "1s",
        }
        if machine is None:
            self.settings |= {name: free_port() for name in ("statusPort", "readinessPort", "envoyPrometheusPort")}
            self.settings["dns"] = {"enabled": False}
        self.settings |= settings
        self.write()
        argv: list[str | Path] = [ISTHMUS, "agent", "-c", self.file]
        super().__init__(machine.command(*argv) if machine else argv, directory / "agent.log")

    @property
    def status_port(self) -> int:
        port: int = self.settings.get("statusPort", 15020)
        return port

    def write(self, **changed: Any) -> None:
        """Write the configuration, with some settings changed; an agent that runs notices."""
        self.settings |= changed
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(self.settings))
        new.replace(self.file)

    async def request(self, path: str, method: str = "GET") -> tuple[int, str]:
        """One request to its status port, from its own machine."""
        connector = aiohttp.TCPConnector(socket_factory=self.machine.socket if self.machine else None)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(5)) as session,
            session.request(method, f"http://127.0.0.1:{self.status_port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def status(self) -> AgentStatus:
        return msgspec.json.decode((await self.request("/status"))[1], type=AgentStatus)

    async def ready(self, timeout: float = 30) -> None:
        """Wait until it is ready."""

        async def is_ready() -> bool:
            if not self.running:
                raise RuntimeError(f"the agent has ended:\n{self.output()[-3000:]}")
            status, text = await self.request("/healthz/ready")
            assert status == 200, text
            return True

        await eventually(is_ready, "the agent is ready", timeout)

    def envoys(self) -> list[int]:
        """The process ids of its Envoys that run."""
        return [e.pid for e in read_state(self.directory / "state" / "envoy.json").envoys]

    def close(self) -> None:
        """End it and what it would leave, at once."""
        self.kill()
        for pid in self.envoys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        clean(self.directory / "state", read_state(self.directory / "state" / "envoy.json").base_id)
