"""Synchronous requests in threads, with the limits that `requests` has not.

A server that never ends its answer holds a thread until the deadline, and never the process: the threads are daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter

CONNECT_TIMEOUT = 5.0
CHUNK = 256 * 1024

T = TypeVar("T")


class TooLongError(Exception):
    """The answer takes longer, or is larger, than it may; the text says which."""


class LimitedSession(requests.Session):
    """A session that reads an answer whole, up to `max_body` bytes within `within` seconds, from nobody but who was asked."""

    def __init__(self, within: float, max_body: int, tls: ssl.SSLContext | None, server_name: str) -> None:
        super().__init__()
        self._within = within
        self._max_body = max_body
        self.trust_env = False  # neither a proxy nor credentials out of the environment or of ~/.netrc
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "isthmus"})
        if tls is not None:
            self.mount("https://", _Adapter(tls, server_name))

    def request(self, method: str, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        deadline = time.monotonic() + self._within
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": (CONNECT_TIMEOUT, self._within)}
        response = super().request(method, url, *args, **kwargs)
        with contextlib.closing(response):
            body = bytearray()
            for chunk in response.iter_content(CHUNK):
                body += chunk
                if len(body) > self._max_body:
                    raise TooLongError(f"the answer is larger than {self._max_body // 1024 // 1024} MiB")
                if time.monotonic() > deadline:
                    raise TooLongError(f"the answer was not complete within {self._within:.1f} s")
            response._content = bytes(body)  # noqa: SLF001 - what its own property would set
        return response


class _Adapter(HTTPAdapter):
    """Verification as our own context says, not as the arguments of each request do."""

    def __init__(self, tls: ssl.SSLContext, server_name: str) -> None:
        self._kwargs: dict[str, Any] = {"ssl_context": tls}
        if server_name:
            self._kwargs |= {"server_hostname": server_name, "assert_hostname": server_name}
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._kwargs)

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """All is in the context."""


class Threads:
    """A few daemon threads, each with a session of its own, which run what the loop gives them."""

    def __init__(self, count: int, mk_session: Callable[[], requests.Session]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[requests.Session], None] | None] = queue.SimpleQueue()
        self._count = count
        self._mk_session = mk_session
        for n in range(count):
            threading.Thread(target=self._serve, name=f"nomad {n}", daemon=True).start()

    def close(self) -> None:
        """Let the threads end when they have done what they are at."""
        for _ in range(self._count):
            self._work.put(None)

    async def run(self, function: Callable[[requests.Session], T]) -> T:
        """What the function returns or raises, called in one of the threads. Cancelling leaves it to run to its end there."""
        future: asyncio.Future[T] = self._loop.create_future()

        def work(session: requests.Session) -> None:
            if future.cancelled():
                return
            try:
                result = function(session)
            except Exception as e:  # whatever it is, it belongs to who awaits
                self._tell(_set_exception, future, e)
            else:
                self._tell(_set_result, future, result)

        self._work.put(work)
        return await future

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            self._loop.call_soon_threadsafe(function, *args)

    def _serve(self) -> None:
        with self._mk_session() as session:
            while (work := self._work.get()) is not None:
                work(session)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
