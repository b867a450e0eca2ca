"""A Bookinfo of our own: four small HTTP services that call each other through Envoy.

productpage asks details and reviews, reviews v2 and v3 ask ratings. Every answer is JSON and names the instances that gave it;
a page is whole only when each of its parts came, so that nothing hides a failure.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

PORT = 9080
"""The logical port of every service; the instances listen on ports of their own."""
DOMAIN = "default.mesh"

_DRAIN_SECONDS = 2.0
_CALL = aiohttp.ClientTimeout(total=5)


class BookinfoError(Exception):
    """A part of the page did not come."""


def authority(service: str) -> str:
    """The Host header by which Envoy knows a service."""
    return f"{service}.{DOMAIN}:{PORT}"


class Mesh:
    """How a service calls another one.

    Through Envoy's outbound listener `via`, `host:port`, which goes by the authority; or, with None, by its name, which leads to
    Envoy where the agent's DNS answers.
    """

    def __init__(self, via: str | None) -> None:
        self._via = via
        self._session = aiohttp.ClientSession(timeout=_CALL, connector=aiohttp.TCPConnector(limit=0))

    async def call(self, service: str, path: str) -> Any:
        """The decoded JSON answer of a service.

        Raises:
            BookinfoError: another status than 200, no answer, or not JSON.

        """
        url = f"http://{self._via or authority(service)}{path}"
        try:
            async with self._session.get(url, headers={"Host": authority(service)}) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as e:
            raise BookinfoError(f"{service}: {type(e).__name__} {e}".rstrip()) from None
        if response.status != 200:
            raise BookinfoError(f"{service}: {response.status} {body[:120].decode(errors='replace').strip()}")
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            raise BookinfoError(f"{service}: the answer is not JSON") from None

    async def close(self) -> None:
        """Close the connections to Envoy."""
        await self._session.close()


class Instance:
    """One running copy of a service, on a port of its own."""

    def __init__(self, service: str, version: str, id_: str, mesh: Mesh) -> None:
        self.service = service
        self.version = version
        self.id = id_
        self.port = 0
        self.requests = 0
        self.is_broken = False
        """It answers 503 to everything."""
        self.is_unwell = False
        """It says so when it is asked how it is, and answers everything else."""
        self._mesh = mesh
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes any that is free. Raises OSError."""
        app = web.Application()
        app.router.add_get("/health", self._answer_health)
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_DRAIN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Finish the requests that have come, then stop listening."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        await runner.cleanup()

    async def _answer_health(self, _: web.Request) -> web.Response:
        return _json(503 if self.is_broken or self.is_unwell else 200, {"instance": self.id})

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        try:
            if self.is_broken:
                return _json(503, {"instance": self.id, "error": "out of order"})
            return _json(200, {"instance": self.id} | await self._content())
        except BookinfoError as e:
            return _json(502, {"instance": self.id, "error": str(e)})

    async def _content(self) -> dict[str, Any]:
        match self.service:
            case "productpage":
                details, reviews = await asyncio.gather(
                    self._mesh.call("details", "/details/0"), self._mesh.call("reviews", "/reviews/0")
                )
                return {"title": "The Comedy of Errors", "details": details, "reviews": reviews}
            case "details":
                return {"pages": 200, "language": "English"}
            case "reviews":
                text = {"version": self.version, "text": "An extremely entertaining play."}
                if self.version == "v1":
                    return text
                return text | {"ratings": await self._mesh.call("ratings", "/ratings/0")}
            case _:
                return {"stars": 5}


def _json(status: int, content: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")


FIRST = (
    ("productpage", "v1", "productpage-1"),
    ("productpage", "v1", "productpage-2"),
    ("details", "v1", "details-1"),
    ("details", "v1", "details-2"),
    ("reviews", "v1", "reviews-v1-1"),
    ("reviews", "v2", "reviews-v2-1"),
    ("reviews", "v3", "reviews-v3-1"),
    ("ratings", "v1", "ratings-1"),
    ("ratings", "v1", "ratings-2"),
)
"""What runs at the beginning: service, version, id."""


class Bookinfo:
    """The instances that run, by id."""

    def __init__(self, mesh: Mesh) -> None:
        self.instances: dict[str, Instance] = {}
        self._mesh = mesh

    async def start(self, service: str, version: str, id_: str) -> Instance:
        """Start one more."""
        instance = Instance(service, version, id_, self._mesh)
        await instance.start()
        self.instances[id_] = instance
        return instance

    async def stop(self, id_: str) -> None:
        """Stop one gracefully."""
        await self.instances.pop(id_).stop()

    async def close(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(self.stop(id_) for id_ in list(self.instances)))
