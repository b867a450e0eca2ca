"""Small services that say who answered, and constant load that counts what failed."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.servers.netns import Machine

CLIENT_TIMEOUT = aiohttp.ClientTimeout(5)


class Upstream:
    """An HTTP service on a port of 127.0.0.1, of this machine or another one, that answers with its name."""

    def __init__(self, name: str, port: int = 0, machine: Machine | None = None, address: str = "127.0.0.1") -> None:
        self.name = name
        self.port = port
        self.address = address
        self.requests = 0
        self._machine = machine
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        if self._machine is None:
            await web.TCPSite(self._runner, self.address, self.port).start()
        else:
            with self._machine.entered():
                sock = socket.create_server((self.address, self.port))
            await web.SockSite(self._runner, sock).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop accepting, finish what has begun."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, _: web.Request) -> web.Response:
        self.requests += 1
        return web.Response(text=self.name)


def _connector(machine: Machine | None, *, fresh: bool = False) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(force_close=fresh, socket_factory=machine.socket if machine else None)


async def get(port: int, host: str, address: str = "127.0.0.1", *, machine: Machine | None = None) -> tuple[int, str]:
    """One request through a listener of an Envoy, by default the outbound one: the status and the body."""
    async with (
        aiohttp.ClientSession(timeout=CLIENT_TIMEOUT, connector=_connector(machine)) as session,
        session.get(f"http://{address}:{port}/", headers={"Host": host}) as answer,
    ):
        return answer.status, (await answer.text()).strip()


class Load:
    """Requests for one host, one after another, until it is stopped; `fresh`: each on a connection of its own."""

    def __init__(
        self, port: int, host: str, address: str = "127.0.0.1", *, fresh: bool = False, machine: Machine | None = None
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = f"http://{address}:{port}/"
        self._host = host
        self._fresh = fresh
        self._machine = machine

    @property
    def requests(self) -> int:
        return self.answers.total() + len(self.failures)

    def recent(self) -> Counter[str]:
        """Answers since the last call."""
        answers, self.answers = self.answers, Counter()
        return answers

    async def run(self) -> None:
        """Ask for ever, about 200 times a second."""
        connector = _connector(self._machine, fresh=self._fresh)
        async with aiohttp.ClientSession(timeout=CLIENT_TIMEOUT, connector=connector) as session:
            while True:
                try:
                    async with session.get(self._url, headers={"Host": self._host}) as answer:
                        text = (await answer.text()).strip()
                        if answer.status == 200:
                            self.answers[text] += 1
                        else:
                            self.failures.append(f"{answer.status} {text}")
                except (aiohttp.ClientError, TimeoutError) as e:
                    self.failures.append(repr(e))
                await asyncio.sleep(0.005)


@asynccontextmanager
async def constant_load(
    port: int,
    host: str,
    streams: int = 2,
    address: str = "127.0.0.1",
    *,
    fresh: bool = False,
    machine: Machine | None = None,
) -> AsyncGenerator[Load, None]:
    """Load while the block runs."""
    load = Load(port, host, address, fresh=fresh, machine=machine)
    tasks = [asyncio.create_task(load.run()) for _ in range(streams)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        crashed = [r for r in results if isinstance(r, Exception)]
        assert not crashed, crashed
