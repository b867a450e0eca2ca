"""A Nomad that does what a test tells it to: strict about what it is asked, with the events and indexes of the real one.

It keeps services, allocations, nodes and jobs, and says of each change what Nomad says: an event with the object, at an index of
its own. What it answers to a path can be replaced by a script (`answers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BUFFERED = 100
"""Events that are kept for those who subscribe later."""


class ScriptedNomad:
    """One agent. `calls` counts requests by path; `address` is there once it runs (`async with`)."""

    def __init__(self) -> None:
        self.index = 10
        self.indexes = dict.fromkeys(("services", "allocations", "nodes", "namespaces"), 10)
        self.namespaces = ["default"]
        self.registrations: dict[str, dict[str, Any]] = {}
        self.allocations: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.checks: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Handler] = {}
        """By path, what is answered instead."""
        self.calls: dict[str, int] = {}
        self.requests: list[web.BaseRequest] = []
        self.unexpected: list[str] = []
        self._events: list[bytes] = []
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._moved = asyncio.Condition()
        self._server: TestServer | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server(shutdown_timeout=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self.end_streams()
        await self._server.close()
        assert not self.unexpected, f"asked for what Nomad does not have: {self.unexpected}"

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.port}"

    # What happens.

    async def run(self, service: str, *allocs: str, node: str = "node-1", checks: bool = False) -> None:
        """A job with running allocations, each registered as an instance of the service."""
        if node not in self.nodes:
            await self.set_node(node)
        await self.set_job(f"job-{service}", service, checks=checks)
        for alloc in allocs:
            await self.set_allocation(alloc, job=f"job-{service}", node=node)
            if checks:
                self.set_check(alloc, service, "success")
            await self.register(service, alloc, node=node)

    async def register(self, service: str, alloc: str, *, node: str = "node-1", **more: Any) -> None:
        id_ = f"_nomad-task-{alloc}-group-web-{service}-http"
        index = self._next("services")
        self.registrations[id_] = {
            "ID": id_,
            "ServiceName": service,
            "Namespace": "default",
            "AllocID": alloc,
            "NodeID": node,
            "JobID": f"job-{service}",
            "Datacenter": "dc1",
            "Tags": [],
            "Address": "10.0.0.1",
            "Port": 20_000 + len(self.registrations),
            "CreateIndex": index,
            "ModifyIndex": index,
        } | more
        await self._event("Service", "ServiceRegistration", id_, {"Service": self.registrations[id_]})

    async def deregister(self, alloc: str, *, type_: str = "ServiceDeregistration", silently: bool = False) -> None:
        """All instances of an allocation go, at one index; silently: no event tells."""
        self._next("services")
        gone = [id_ for id_, r in self.registrations.items() if r["AllocID"] == alloc]
        events = [("Service", type_, id_, {"Service": self.registrations.pop(id_)}) for id_ in gone]
        if not silently:
            await self._send(events)
        async with self._moved:
            self._moved.notify_all()

    async def set_allocation(self, id_: str, *, silently: bool = False, **fields: Any) -> None:
        """An allocation as it is from now on: `desired`, `client`, `node`, `job`, `deployment`."""
        names = {
            "desired": "DesiredStatus",
            "client": "ClientStatus",
            "node": "NodeID",
            "job": "JobID",
            "deployment": "DeploymentStatus",
        }
        before = self.allocations.get(id_) or {
            "ID": id_,
            "Namespace": "default",
            "TaskGroup": "web",
            "DesiredStatus": "run",
            "ClientStatus": "running",
            "DeploymentStatus": None,
        }
        changed = {names[name]: value for name, value in fields.items()}
        self.allocations[id_] = before | changed | {"ModifyIndex": self._next("allocations")}
        if not silently:
            await self._event("Allocation", "AllocationUpdated", id_, {"Allocation": self.allocations[id_]})

    async def set_node(self, id_: str, **more: Any) -> None:
        node: dict[str, Any] = {
            "ID": id_,
            "Name": id_,
            "Datacenter": "dc1",
            "Status": "ready",
            "DrainStrategy": None,
            "Meta": {},
        }
        self.nodes[id_] = self.nodes.get(id_, node) | more | {"ModifyIndex": self._next("nodes")}
        await self._event("Node", "NodeEvent", id_, {"Node": self.nodes[id_]})

    async def set_job(self, id_: str, service: str, *, checks: bool = False) -> None:
        spec = {"Name": service, "Provider": "nomad", "Checks": [{"Name": "alive"}] if checks else None}
        self.index += 1
        self.jobs[id_] = {
            "ID": id_,
            "Namespace": "default",
            "Type": "service",
            "Version": 0,
            "Stop": False,
            "ModifyIndex": self.index,
            "TaskGroups": [{"Name": "web", "Services": [spec], "Tasks": [{"Services": None}]}],
        }
        await self._event("Job", "JobRegistered", id_, {"Job": self.jobs[id_]})

    def set_check(self, alloc: str, service: str, status: str) -> None:
        """What the client of an allocation says from now on. No event tells."""
        self.checks[alloc] = {"c": {"ID": "c", "Check": "alive", "Service": service, "Status": status}}

    async def set_namespaces(self, *names: str) -> None:
        self.namespaces = list(names)
        self._next("namespaces")
        async with self._moved:
            self._moved.notify_all()

    async def send_line(self, line: bytes) -> None:
        """A line of the event stream, whatever it is."""
        for stream in self._streams:
            stream.put_nowait(line)

    async def end_streams(self, said: bytes = b"") -> None:
        """The server ends all streams, with a last word."""
        for stream in self._streams:
            stream.put_nowait(said)
            stream.put_nowait(None)

    @property
    def streams(self) -> int:
        """How many follow the events at the moment."""
        return len(self._streams)

    def _next(self, table: str) -> int:
        self.index += 1
        self.indexes[table] = self.index
        return self.index

    async def _event(self, topic: str, type_: str, key: str, payload: Mapping[str, Any]) -> None:
        await self._send([(topic, type_, key, payload)])
        async with self._moved:
            self._moved.notify_all()

    async def _send(self, events: Sequence[tuple[str, str, str, Mapping[str, Any]]]) -> None:
        said = [
            {
                "Topic": topic,
                "Type": type_,
                "Key": key,
                "Namespace": "default",
                "FilterKeys": [r["JobID"], r["ServiceName"]] if (r := payload.get("Service")) else [],
                "Index": self.index,
                "Payload": payload,
            }
            for topic, type_, key, payload in events
        ]
        line = json.dumps({"Index": self.index, "Events": said}).encode() + b"\n"
        self._events = [*self._events, line][-BUFFERED:]
        await self.send_line(line)

    # What is answered.

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.calls[request.path] = self.calls.get(request.path, 0) + 1
        for path, handler in self.answers.items():
            if request.path == path or (path.endswith("*") and request.path.startswith(path[:-1])):
                return await handler(request)
        return await self._faithful(request)

    async def _faithful(self, request: web.Request) -> web.StreamResponse:
        match request.path.split("/")[2:]:
            case ["namespaces"]:
                return await self._blocking(request, "namespaces", lambda: [{"Name": n} for n in self.namespaces])
            case ["regions"]:
                return web.json_response(["global"])
            case ["services"]:
                return await self._blocking(request, "services", self._service_stubs)
            case ["service", name]:
                return self._at("services", [r for r in self.registrations.values() if r["ServiceName"] == name])
            case ["allocations"]:
                return await self._blocking(request, "allocations", self._running)
            case ["nodes"]:
                return await self._blocking(request, "nodes", lambda: list(self.nodes.values()))
            case ["allocation", id_]:
                return self._one("allocations", self.allocations.get(id_))
            case ["node", id_]:
                return self._one("nodes", self.nodes.get(id_))
            case ["job", id_]:
                return self._one("nodes", self.jobs.get(id_))
            case ["client", "allocation", id_, "checks"]:
                return web.json_response(self.checks.get(id_, {}))
            case ["event", "stream"]:
                return await self._stream(request)
            case _:
                self.unexpected.append(request.path_qs)
                return web.Response(status=404)

    def _service_stubs(self) -> list[Any]:
        names = sorted({r["ServiceName"] for r in self.registrations.values()})
        return [{"Namespace": "default", "Services": [{"ServiceName": n, "Tags": []} for n in names]}] if names else []

    def _running(self) -> list[Any]:
        return [a for a in self.allocations.values() if a["ClientStatus"] not in ("complete", "failed", "lost")]

    async def _blocking(self, request: web.Request, table: str, value: Callable[[], Any]) -> web.Response:
        index = int(request.query.get("index", 0))
        if index:
            milliseconds = request.query["wait"]
            assert milliseconds.endswith("ms")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(int(milliseconds[:-2]) / 1000), self._moved:
                    await self._moved.wait_for(lambda: self.indexes[table] != index)
        return self._at(table, value())

    def _at(self, table: str, value: Any) -> web.Response:
        headers = {"X-Nomad-Index": str(self.indexes[table]), "X-Nomad-KnownLeader": "true"}
        return web.json_response(value, headers=headers)

    def _one(self, table: str, value: Any) -> web.Response:
        return web.Response(status=404, text="not found") if value is None else self._at(table, value)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for buffered in (b"{}\n", *self._events):
            queue.put_nowait(buffered)
        self._streams.add(queue)
        try:
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self._streams.discard(queue)
        return response


def answering(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Handler:
    """The same answer to everything."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer
