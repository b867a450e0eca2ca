"""An HTTP relay in front of a real server: all goes through, but what a test wants answered otherwise."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOP_BY_HOP = frozenset({"host", "connection", "transfer-encoding", "content-length", "content-encoding"})


class HttpRelay:
    """`instead` answers a path, or those that begin with one that ends in `*`; `asked` counts requests by path."""

    def __init__(self, to: str) -> None:
        self.to = to
        self.instead: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
        )
        await self._server.start_server(shutdown_timeout=0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()
        assert self._session is not None
        await self._session.close()

    @property
    def port(self) -> int:
        port = self._server.port
        assert port is not None
        return port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        for path, answer in self.instead.items():
            if request.path == path or (path.endswith("*") and request.path.startswith(path[:-1])):
                return await answer(request)
        return await self.forward(request)

    async def forward(self, request: web.Request, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """What the server says, piece by piece as it says it, with some headers set otherwise."""
        assert self._session is not None
        sent = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, f"{self.to}{request.raw_path}", headers=sent, data=await request.read()
        ) as answer:
            said = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=said | dict(headers or {}))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    def trickling(self, pause: float, start: int = 0) -> Answer:
        """What the server says, byte by byte from the byte `start` of the body on, with so many seconds after each."""

        async def answer(request: web.Request) -> web.StreamResponse:
            assert self._session is not None
            response = web.StreamResponse()
            async with self._session.get(f"{self.to}{request.raw_path}") as said:
                response.headers.update({k: v for k, v in said.headers.items() if k.lower() not in HOP_BY_HOP})
                await response.prepare(request)
                sent = 0
                async for piece in said.content.iter_any():
                    for byte in piece:
                        await response.write(bytes([byte]))
                        await asyncio.sleep(pause if sent >= start else 0)
                        sent += 1
            await response.write_eof()
            return response

        return answer


def refusing(status: int, text: str) -> Answer:
    """Always this."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return answer
