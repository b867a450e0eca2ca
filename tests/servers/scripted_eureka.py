"""A Eureka server that lies, stalls and forgets as a test tells it to, and is strict about what it is asked."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.servers.eureka import mk_instance

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

DAY = 1_700_000_000_000
"""Where its clock begins, in milliseconds; each change is a second later than the one before."""


class ScriptedEureka:
    """`put` and `drop` change what it has; `instead` answers a path (`/apps`) otherwise; `asked` counts requests by path.

    A delta is asked for in two kinds: "/apps/delta" is instead of both, unless there is one for "/apps/delta brief".
    `user` and `password` are demanded when they are set. A request that Eureka would answer in XML is a failure of the test.
    """

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.hashcode: str | None = None
        self.version = 1
        self.instead: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.user = self.password = ""
        self._clock = itertools.count(DAY, 1000)
        app = web.Application()
        app.router.add_get("/eureka{path:/.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()
        assert self.wrong == []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/eureka"

    def put(self, app: str, id_: str, *, told: bool = True, **more: Any) -> None:
        """Register an instance, or change it; unless `told`, no delta says so."""
        instance = mk_instance(app, id_, **more)["instance"]
        instance |= {"lastUpdatedTimestamp": str(next(self._clock)), "lastDirtyTimestamp": "1"}
        action = "MODIFIED" if id_ in self.instances else "ADDED"
        self.instances[id_] = instance
        if told:
            self.changes.pop(id_, None)
            self.changes[id_] = instance | {"actionType": action}

    def drop(self, id_: str, *, told: bool = True) -> None:
        """Take an instance away; unless `told`, no delta says so."""
        instance = self.instances.pop(id_)
        self.changes.pop(id_, None)
        if told:
            gone = {"actionType": "DELETED", "lastUpdatedTimestamp": str(next(self._clock))}
            self.changes[id_] = instance | gone

    def renew(self, id_: str) -> None:
        """An instance renews its lease."""
        self.instances[id_]["leaseInfo"] |= {"lastRenewalTimestamp": next(self._clock)}

    def page(self, instances: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """A listing of these, as Eureka would write it."""
        applications: dict[str, list[dict[str, Any]]] = {}
        for instance in instances.values():
            applications.setdefault(instance["app"], []).append(instance)
        counts = Counter(i["status"] for i in self.instances.values())
        hashcode = "".join(f"{status}_{counts[status]}_" for status in sorted(counts))
        return {
            "applications": {
                "versions__delta": str(self.version),
                "apps__hashcode": hashcode if self.hashcode is None else self.hashcode,
                "application": [{"name": app, "instance": members} for app, members in applications.items()],
            }
        }

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked[path] += 1
        if request.headers.get("Accept") != "application/json":
            self.wrong.append(f"{path} was asked with Accept: {request.headers.get('Accept')}")
        expected = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.user and request.headers.get("Authorization") != f"Basic {expected}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        brief = request.headers.get("X-Eureka-Accept") == "compact"
        instead = (brief and self.instead.get(f"{path} brief")) or self.instead.get(path)
        if instead:
            return await instead(request)
        if path == "/apps":
            return web.json_response(self.page(self.instances))
        if path == "/apps/delta":
            self.version += 1
            return web.json_response(self.page(in_brief(self.changes) if brief else self.changes))
        app, _, id_ = path.removeprefix("/apps/").partition("/")
        instance = self.instances.get(id_)
        if instance is None or instance["app"] != app:
            return web.json_response({"status": 404, "error": "Not Found"}, status=404)
        return web.json_response({"instance": instance})


def in_brief(instances: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """These without what a compact answer leaves out, as recorded."""
    left_out = {
        "metadata",
        "leaseInfo",
        "lastDirtyTimestamp",
        "overriddenStatus",
        "countryId",
        "isCoordinatingDiscoveryServer",
    }
    return {id_: {k: v for k, v in i.items() if k not in left_out} for id_, i in instances.items()}


def saying(status: int = 200, body: Any = None, *, text: str = "", content_type: str = "application/json") -> Answer:
    """Always this answer."""

    async def answer(_: web.Request) -> web.Response:
        said = text if body is None else json.dumps(body)
        return web.Response(status=status, text=said, content_type=content_type)

    return answer


async def stalling(request: web.Request) -> web.StreamResponse:
    """The head and a little of the body, and then nothing, until the client is tired of it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100000"})
    await response.prepare(request)
    await response.write(b'{"applications": {')
    await asyncio.Event().wait()
    return response


async def breaking_off(request: web.Request) -> web.StreamResponse:
    """The connection ends in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100000"})
    await response.prepare(request)
    await response.write(b'{"applications": {"apps__hashcode": "", "application": []}}')
    assert request.transport is not None
    request.transport.close()
    return response
