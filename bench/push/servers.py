"""The servers that are compared: each starts, says where it is, and makes its next change when told."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec

from bench.push.catalog import PORT, PREFIX, Keys, Population, name
from bench.push.lines import Program
from isthmus.xds.resource import TypeUrl
from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

ISTHMUS, LINEAR, SNAPSHOT, SNAPSHOT_NODE, PLAIN = "isthmus", "linear", "snapshot", "snapshot-node", "plain"
"""Isthmus; three ways to use go-control-plane, the second with one snapshot for all, the third with one for each node; and
bench/push/plain.py."""


class Shape(msgspec.Struct, frozen=True):
    """What is pushed. `name` is as in `push.<server>.<name>.n<N>.cpu_us`."""

    name: str
    type_url: TypeUrl
    population: Population
    delta: bool = False
    tls: bool = False


class Place(msgspec.Struct, frozen=True):
    """What all shapes share: a directory, etcd and the writer to it, the proxies and the file with the node that they say they
    are, and the files of a certificate for localhost and its key.
    """

    directory: Path
    etcd: str
    keys: Keys
    load: Program
    node: Path
    tls: tuple[Path, Path]


class Server(Protocol):
    """One of them."""

    label: str
    address: str

    @property
    def pid(self) -> int:
        """Of the process whose CPU time and memory are the server's."""
        ...

    async def change(self) -> None:
        """Change one endpoint, or one cluster; it is pushed to everyone."""
        ...


class Settings:
    """The configuration of one bridge, which reads all of etcd. `tls`: a certificate and its key, for those who are measured."""

    def __init__(self, directory: Path, etcd: str, tls: tuple[Path, Path] | None = None, **registry: object) -> None:
        directory.mkdir(parents=True)
        self.log = directory / "isthmus.log"
        self._state = directory / "state"
        plain, secure, self._http = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.address = secure if tls else plain
        """Of its xDS server."""
        self._xds: dict[str, object] = {"address": plain}
        if tls:
            self._xds["tls"] = {"address": secure, "cert_file": str(tls[0]), "key_file": str(tls[1])}
        self._etcd = etcd
        self.path = self.write("isthmus", **registry)

    def write(self, stem: str, **registry: object) -> Path:
        """The file, with more keys for the registry; returns where it is."""
        prefixes = [{"prefix": PREFIX, "layout": "kitex"}]
        document = {
            "registries": [
                {"name": "etcd", "type": "etcd", "endpoints": [self._etcd], "prefixes": prefixes, **registry}
            ],
            "xds": self._xds,
            "http": {"address": self._http},
            "state_dir": str(self._state),
        }
        path = self._state.with_name(f"{stem}.yaml")
        path.write_text(json.dumps(document))  # JSON is YAML
        return path

    async def ready(self, running: Callable[[], bool]) -> None:
        """Wait until the bridge has read all of etcd; AssertionError when it has not, RuntimeError when it has ended."""

        async def synced() -> bool:
            if not running():
                raise RuntimeError(f"the bridge ended: {self.log.read_text(errors='replace')[-2000:]}")
            return bool(json.loads(await self.page("/readyz"))["ready"])

        await eventually(synced, "the bridge has read all of etcd", 120)

    async def page(self, path: str) -> str:
        """One of its HTTP pages."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self._http}{path}") as answer:
            return await answer.text()


class Isthmus(Process):
    """The whole bridge as one gets it: `isthmus serve`."""

    label = ISTHMUS

    def __init__(self, directory: Path, place: Place, shape: Shape) -> None:
        self.settings = Settings(directory, place.etcd, place.tls if shape.tls else None)
        self.address = self.settings.address
        self._change = _Changes(place.keys, shape)
        isthmus = Path(sys.executable).with_name("isthmus")
        super().__init__([isthmus, "serve", "-c", self.settings.path], self.settings.log)

    async def change(self) -> None:
        """Write the next change to etcd."""
        await self._change()


class Other:
    """A program that serves what a file holds, and takes `{"change": n}`."""

    def __init__(self, label: str, program: Program, address: str) -> None:
        self.label = label
        self.address = address
        self._program = program
        self._changes = 0

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._program.pid

    async def change(self) -> None:
        """Change the first resource."""
        self._changes += 1
        await self.order({"change": self._changes})

    async def order(self, order: Mapping[str, object]) -> Any:
        """Anything else that the program takes."""
        return await self._program.order(order)


class _Changes:
    """Writes to etcd, each of which changes one endpoint (its weight) or one cluster (its instance speaks another protocol)."""

    def __init__(self, keys: Keys, shape: Shape) -> None:
        self._keys = keys
        self._shape = shape
        self._number = 0

    async def __call__(self) -> None:
        self._number += 1
        population = self._shape.population
        if self._shape.type_url is TypeUrl.CLUSTER:
            pair = population.pair(0, 0, protocol="grpc" if self._number % 2 else "http")
        else:
            pair = population.pair(0, 0, weight=100 + self._number % 100)
        await self._keys.put(*pair)


def go_program() -> Path:
    """Where our Go program is; skips when it was not built."""
    return peer_binary("push", peers.PUSH)


@contextlib.asynccontextmanager
async def start(
    labels: Sequence[str], shape: Shape, place: Place, directory: Path
) -> AsyncGenerator[list[Server], None]:
    """Fill etcd and start the servers of one shape, all with the resources that Isthmus makes of what etcd holds."""
    directory.mkdir()
    await place.keys.fill(shape.population)
    async with contextlib.AsyncExitStack() as stack:
        isthmus = Isthmus(directory / "isthmus", place, shape)
        isthmus.start()
        stack.callback(isthmus.stop)
        await isthmus.settings.ready(lambda: isthmus.running)
        resources = directory / "resources.pb"
        await place.load.order(subscribe(shape, isthmus.address, place, 1) | {"delta": False, "keep": str(resources)})
        await place.load.order({"do": "close"})
        out: list[Server] = []
        argv: list[str | Path]
        for label in labels:
            if label == ISTHMUS:
                out.append(isthmus)
                continue
            if label == PLAIN:
                argv = [sys.executable, "-m", "bench.push.plain", resources]
            else:
                argv = [go_program(), "serve", label, resources, "127.0.0.1:0", *(place.tls if shape.tls else ())]
            program = await stack.enter_async_context(Program(argv, directory / f"{label}.log"))
            out.append(Other(label, program, (await program.answer())["address"]))
        yield out


def subscribe(shape: Shape, address: str, place: Place, number: int) -> dict[str, Any]:
    """The order to connect proxies: they subscribe to all clusters by the wildcard, to load assignments by name."""
    names: list[str] = []
    if shape.type_url is TypeUrl.ENDPOINT:
        names = [f"outbound|{PORT}||{name(s)}.default.mesh" for s in range(shape.population.services)]
    return {
        "do": "connect",
        "address": address,
        "number": number,
        "delta": shape.delta,
        "type": shape.type_url,
        "names": names,
        "node": str(place.node),
        "ca": str(place.tls[0]) if shape.tls else "",
    }
