"""Synchronous requests in threads, with the limits that `requests` has not.

Who awaits a request may cancel it: its connection is then closed under it, so that no server holds a thread by answering slowly,
forever or never. The threads are daemons and do not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import ssl
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_TIMEOUT = 5.0
CHUNK = 256 * 1024

T = TypeVar("T")


class TooLargeError(Exception):
    """The answer is larger than it may be."""


class LimitedSession(requests.Session):
    """A session that reads an answer whole, up to `max_body` bytes, from nobody but who was asked.

    `silence` is the number of seconds without a byte after which it gives up; how long an answer may take in all is for those to
    limit who await it.
    """

    def __init__(self, silence: float, max_body: int, tls: ssl.SSLContext | None, server_name: str) -> None:
        super().__init__()
        self._silence = silence
        self._max_body = max_body
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.trust_env = False  # neither a proxy nor credentials out of the environment or of ~/.netrc
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "isthmus"})
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._sockets, tls, server_name))

    def request(self, method: str, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": (CONNECT_TIMEOUT, self._silence)}
        response = super().request(method, url, *args, **kwargs)
        with contextlib.closing(response):
            body = bytearray()
            for chunk in response.iter_content(CHUNK):
                body += chunk
                if len(body) > self._max_body:
                    raise TooLargeError(f"the answer is larger than {self._max_body // 1024 // 1024} MiB")
            response._content = bytes(body)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what its own property would set
        return response

    def abort(self) -> None:
        """End every connection, from any thread: whoever waits for an answer gets an error."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Connections that can be ended from outside, verified as our own context says, not as the arguments of a request do."""

    def __init__(self, sockets: weakref.WeakSet[socket.socket], tls: ssl.SSLContext | None, server_name: str) -> None:
        self._pools = _pools(sockets)
        self._kwargs: dict[str, Any] = {"ssl_context": tls} if tls is not None else {}
        if server_name:
            self._kwargs |= {"server_hostname": server_name, "assert_hostname": server_name}
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """All is in the context."""


def _pools(sockets: weakref.WeakSet[socket.socket]) -> dict[str, type[HTTPConnectionPool]]:
    """Pools whose connections put their sockets into the set."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class Tls(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain  # pyright: ignore[reportAssignmentType] - a protocol that its own classes do not fulfil

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls  # pyright: ignore[reportAssignmentType]

    return {"http": PlainPool, "https": TlsPool}


class Threads:
    """A few daemon threads, each with a session of its own, which run what the loop gives them."""

    def __init__(self, count: int, mk_session: Callable[[], LimitedSession]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[LimitedSession], None] | None] = queue.SimpleQueue()
        self._sessions = [mk_session() for _ in range(count)]
        for session in self._sessions:
            threading.Thread(target=self._serve, args=(session,), name="nomad", daemon=True).start()

    def close(self) -> None:
        """End the threads and what they are at."""
        for session in self._sessions:
            self._work.put(None)
            session.abort()

    async def run(self, function: Callable[[requests.Session], T]) -> T:
        """What the function returns or raises, called in one of the threads."""
        future: asyncio.Future[T] = self._loop.create_future()
        at_work: list[LimitedSession] = []

        def work(session: LimitedSession) -> None:
            if future.cancelled():
                return
            at_work.append(session)
            try:
                result = function(session)
            except Exception as e:  # whatever it is, it belongs to who awaits
                self._tell(_set_exception, future, e)
            else:
                self._tell(_set_result, future, result)
            finally:
                at_work.clear()

        self._work.put(work)
        try:
            return await future
        except asyncio.CancelledError:
            for session in at_work:
                session.abort()
            raise

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            self._loop.call_soon_threadsafe(function, *args)

    def _serve(self, session: LimitedSession) -> None:
        with session:
            while (work := self._work.get()) is not None:
                work(session)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
