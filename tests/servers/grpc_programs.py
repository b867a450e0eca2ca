"""Programs that follow the mesh through their gRPC library, each a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from isthmus.xds.grpc_bootstrap import to_grpc_bootstrap
from tests.peers import GRPC_JS
from tests.servers.grpc_greeter import METHOD, SERVICE
from tests.servers.peers import peer_binary
from tests.servers.process import Process

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

LANGUAGES = ("python", "node")


class Call(msgspec.Struct, frozen=True):
    """How one call ended: who answered, or the status and its text."""

    seconds: float
    answer: str = ""
    failure: str = ""


class GrpcProgram(Process):
    """A program with a bootstrap that names the bridge, and itself as a node."""

    def __init__(
        self, directory: Path, xds_address: str, node: str, argv: list[str | Path], env: Mapping[str, str] | None = None
    ) -> None:
        self.node = node
        host, _, port = xds_address.rpartition(":")
        bootstrap = directory / f"{node}.json"
        bootstrap.write_text(to_grpc_bootstrap(node, "test", host, int(port)))
        own = {"GRPC_XDS_BOOTSTRAP": str(bootstrap), "PYTHONPATH": str(ROOT), **(env or {})}
        super().__init__(argv, directory / f"{node}.log", os.environ | own)


class Caller(GrpcProgram):
    """Calls a target all the time, in one of LANGUAGES."""

    def __init__(
        self,
        directory: Path,
        xds_address: str,
        target: str,
        *,
        node: str = "caller",
        language: str = "python",
        env: Mapping[str, str] | None = None,
    ) -> None:
        if language == "python":
            program: list[str | Path] = [sys.executable, "-m", "tests.servers.grpc_caller"]
        else:
            program = [peer_binary("grpc-js", GRPC_JS), HERE / "grpc_caller.js"]
        super().__init__(directory, xds_address, node, [*program, target, f"/{SERVICE}/{METHOD}"], env)
        self.failures: list[str] = []
        self._read = 0

    def calls(self) -> list[Call]:
        """Those that have ended since the last look; what failed is remembered as well."""
        assert self.running, self.output()
        with self.log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        # gRPC's own log goes to the same place.
        calls = [msgspec.convert(json.loads(line), Call) for line in whole.splitlines() if line.startswith(b"{")]
        self.failures += [call.failure for call in calls if call.failure]
        return calls

    def answers(self) -> Counter[str]:
        """Who has answered how often since the last look."""
        return Counter(call.answer for call in self.calls() if call.answer)


def mk_server(directory: Path, xds_address: str, name: str, address: str) -> GrpcProgram:
    """A greeter that asks the bridge for its listener."""
    argv: list[str | Path] = [sys.executable, "-m", "tests.servers.grpc_greeter", name, address]
    return GrpcProgram(directory, xds_address, f"server-{name}", argv)
