"""The registries of this benchmark as who writes to them sees them: scripted ones, a real etcd, a real Consul."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from bench.registry.connections import EVERY, Sampler
from bench.registry.lines import Child
from bench.registry.population import NODES, PORT, Fleet, State
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.process import free_port

TRANSACTION = 128
"""Operations that Consul and etcd take at once, unless they are told otherwise."""
START = 60.0


class Side(Protocol):
    """One registry. `options` are those of its adapter."""

    options: Mapping[str, Any]

    async def put(self, state: State) -> float:
        """Make an instance so; returns the monotonic second just before it was."""
        ...

    async def reads(self) -> float | None:
        """Requests of the reader so far; None where only the reader can count them."""
        ...

    async def most_connections(self) -> tuple[int, str]:
        """Of the reader, at any one time; and how they were counted."""
        ...

    def watch(self, pid: int) -> None:
        """The reader is this process."""
        ...


class ScriptedSide:
    """A scripted server in a process of its own."""

    def __init__(self, child: Child, options: Mapping[str, Any]) -> None:
        self.options = options
        self._child = child

    async def put(self, state: State) -> float:
        return float((await self._child.ask(put=[state]))["at"])

    async def reads(self) -> float | None:
        return float((await self._child.ask(count=True))["requests"])

    async def most_connections(self) -> tuple[int, str]:
        return (await self._child.ask(count=True))["most_connections"], "counted by the server"

    def watch(self, pid: int) -> None:
        """It counts by itself."""


@contextlib.asynccontextmanager
async def scripted(kind: str, fleet: Fleet) -> AsyncGenerator[Side, None]:
    """Start a scripted server."""
    listen = f"127.0.0.1:{free_port()}"
    feed = [f"http://{listen}"] if kind == "eureka" else []
    child = await Child.start("bench.registry.server", kind, str(fleet.size), *feed)
    try:
        address = f"http://127.0.0.1:{(await child.greeting(START))['port']}"
        if kind == "eureka":
            yield ScriptedSide(child, {"addresses": [f"{address}/eureka"], "feed": {"listen": listen}})
        else:
            yield ScriptedSide(child, {"address": address})
    finally:
        await child.close()


class _Real:
    """What both real ones do: writes over a connection that is kept, connections counted by looking at them."""

    def __init__(self, session: aiohttp.ClientSession, port: int, options: Mapping[str, Any]) -> None:
        self.options = options
        self.session = session
        self._sampler = Sampler(port)

    async def most_connections(self) -> tuple[int, str]:
        return self._sampler.most, f"looked up each {EVERY:g} s"

    def watch(self, pid: int) -> None:
        self._sampler.start(pid)

    async def close(self) -> None:
        await self._sampler.close()
        await self.session.close()

    async def write(self, method: str, path: str, body: object) -> Any:
        async with self.session.request(method, path, data=json.dumps(body)) as answer:
            said = await answer.read()
            if answer.status != 200:
                raise ValueError(f"{method} {path}: {answer.status} {said[:300]!r}")
            return json.loads(said)


class EtcdSide(_Real):
    """Keys as etcd's gRPC naming has them, all of one lease."""

    def __init__(self, session: aiohttp.ClientSession, port: int, prefix: str) -> None:
        endpoint = f"http://127.0.0.1:{port}"
        super().__init__(session, port, {"endpoints": [endpoint], "prefixes": [{"prefix": prefix, "layout": "grpc"}]})
        self._prefix = prefix
        self._lease = "0"

    async def fill(self, fleet: Fleet) -> None:
        self._lease = (await self.write("POST", "/v3/lease/grant", {"TTL": "3600"}))["ID"]
        for batch in _batches({"requestPut": self._pair(state)} for state in fleet.states()):
            await self.write("POST", "/v3/kv/txn", {"success": batch})

    async def put(self, state: State) -> float:
        at = time.monotonic()
        await self.write("POST", "/v3/kv/put", self._pair(state))
        return at

    async def reads(self) -> float | None:
        """Messages that etcd has received for reading; writes and leases are ours."""
        async with self.session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        received = [line for line in lines if line.startswith("grpc_server_msg_received_total{")]
        return sum(float(x.rpartition(" ")[2]) for x in received if 'method="Range"' in x or 'method="Watch"' in x)

    def _pair(self, state: State) -> dict[str, str]:
        value = {"Op": 0, "Addr": f"{state.address}:{PORT}", "Metadata": {"weight": state.weight, "version": "v1"}}
        key = f"{self._prefix}{state.name}/{state.id}"
        return {"key": _base64(key), "value": _base64(json.dumps(value)), "lease": self._lease}


@contextlib.asynccontextmanager
async def etcd(directory: Path, fleet: Fleet) -> AsyncGenerator[Side, None]:
    """Start a real etcd and fill it."""
    server = await Etcd.start_one(directory)
    try:
        side = EtcdSide(_session(server.address), server.port, "/bench/")
        try:
            await side.fill(fleet)
            yield side
        finally:
            await side.close()
    finally:
        server.kill()


class ConsulSide(_Real):
    """Instances on nodes that have no agent, each with a check."""

    def __init__(self, session: aiohttp.ClientSession, consul: Consul) -> None:
        super().__init__(session, consul.port, {"address": consul.address})
        self._before: dict[str, State] = {}

    async def fill(self, fleet: Fleet) -> None:
        def operations() -> Iterable[dict[str, Any]]:
            for number in range(NODES):
                yield {"Node": {"Verb": "set", "Node": {"Node": f"node-{number}", "Address": "127.0.0.1"}}}
            for state in fleet.states():
                self._before[state.id] = state
                yield {"Service": {"Verb": "set", "Node": state.node, "Service": _service(state)}}
                yield {"Check": {"Verb": "set", "Check": _check(state)}}

        for batch in _batches(operations()):
            await self.write("PUT", "/v1/txn", batch)

    async def put(self, state: State) -> float:
        before, self._before[state.id] = self._before[state.id], state
        body: dict[str, Any] = {"Node": state.node, "Address": "127.0.0.1", "SkipNodeUpdate": True}
        if state.healthy != before.healthy:
            body["Check"] = _check(state)
        if (state.weight, state.place) != (before.weight, before.place):
            body["Service"] = _service(state)
        at = time.monotonic()
        await self.write("PUT", "/v1/catalog/register", body)
        return at

    async def reads(self) -> float | None:
        return None


@contextlib.asynccontextmanager
async def consul(directory: Path, fleet: Fleet) -> AsyncGenerator[Side, None]:
    """Start a real Consul, with its limits as they are, and fill it."""
    server = await Consul.start_dev(directory)
    try:
        side = ConsulSide(_session(server.address), server)
        try:
            await side.fill(fleet)
            yield side
        finally:
            await side.close()
    finally:
        server.kill()


def _service(state: State) -> dict[str, Any]:
    return {
        "ID": state.id,
        "Service": state.name,
        "Address": state.address,
        "Port": PORT,
        "Tags": ["v1"],
        "Meta": {"version": "v1", "team": "bench"},
        "Weights": {"Passing": state.weight, "Warning": 1},
    }


def _check(state: State) -> dict[str, Any]:
    return {
        "Node": state.node,
        "CheckID": f"service:{state.id}",
        "Name": "alive",
        "Status": "passing" if state.healthy else "critical",
        "ServiceID": state.id,
        "ServiceName": state.name,
    }


def _session(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=30))


def _batches(operations: Iterable[dict[str, Any]]) -> Iterable[Sequence[dict[str, Any]]]:
    remaining = iter(operations)
    while batch := list(islice(remaining, TRANSACTION)):
        yield batch


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
