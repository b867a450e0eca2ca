"""HTTP to one Nomad agent, with limits on time, size and connections, and without following redirections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.connection import keepalive_socket, tls_context
from isthmus.registry.nomad.config import THREADS, NomadConfig, is_token

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer, or of one line of the event stream."""

CONNECT_TIMEOUT = 5.0

SILENCE = 70.0
"""Seconds without a line after which the event stream is dead: Nomad writes an empty one each 30 seconds."""

Params = list[tuple[str, str]]


class RefusedError(AdapterError):
    """Nomad answered, and asking the same again will not help."""


class ForbiddenError(RefusedError):
    """The token is unknown, has expired, or lacks a capability."""


class NotThereError(RefusedError):
    """There is no such object, or no such endpoint."""


class Http:
    """Requests of one agent. Whatever goes wrong is an AdapterError that says of whom what was asked."""

    def __init__(self, config: NomadConfig, stats: ReadStats) -> None:
        self._config = config
        self._stats = stats
        self._token = config.token
        self._token_read: tuple[int, int, int] | None = None
        parts = urlsplit(config.address)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        self.base = f"{parts.scheme}://{host}:{parts.port or 4646}"
        self.tls = tls_context(config, f"nomad at {config.address}") if parts.scheme == "https" else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=config.max_connections - THREADS, ssl=self.tls or True, socket_factory=keepalive_socket
            ),
            # The agent is near, often on this machine: compression costs both sides more than it saves.
            headers={"Accept-Encoding": "identity", "User-Agent": "isthmus"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str, params: Params, within: float) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of a 200, within so many seconds."""
        with self.failures(path, within):
            async with (
                asyncio.timeout(within),
                self._request(
                    path, params, aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_TIMEOUT)
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise AdapterError(f"the answer is larger than {MAX_BODY // 1024 // 1024} MiB")
                if response.status != 200:
                    raise failure(response.status, bytes(body))
                return response.headers, bytes(body)

    async def lines(self, path: str, params: Params, within: float) -> AsyncGenerator[bytes, None]:
        """The lines of an answer that does not end, as they come; its beginning within so many seconds."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE)
        with self.failures(path, within):
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(within):
                    response = await stack.enter_async_context(self._request(path, params, timeout))
                if response.status != 200:
                    raise failure(response.status, await response.content.read(1000))
                async for line in _split(response):
                    yield line

    def _request(
        self, path: str, params: Params, timeout: aiohttp.ClientTimeout
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        token = self.token()
        return self._session.get(
            URL(f"{self.base}{path}", encoded=True).with_query(self.query(params)),
            headers={"X-Nomad-Token": token} if token else None,
            allow_redirects=False,  # the token goes to nobody else
            server_hostname=self._config.tls_server_name or None,
            timeout=timeout,
        )

    def query(self, params: Params) -> Params:
        """The parameters with those that go with every request."""
        return params + ([("region", self._config.region)] if self._config.region else [])

    @contextlib.contextmanager
    def failures(self, path: str, within: float) -> Generator[None, None, None]:
        """Count what goes wrong, and say of whom what was asked."""
        asked = f"nomad at {self._config.address}: GET {path}"
        try:
            yield
        except AdapterError as e:
            self._stats.failed()
            raise type(e)(f"{asked}: {self._redacted(str(e))}") from None
        except TimeoutError as e:
            self._stats.failed()
            raise AdapterError(f"{asked}: no answer within {within:.1f} s") from e
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            self._stats.failed()
            raise AdapterError(f"{asked}: {self._redacted(str(e)) or type(e).__name__}") from e

    def _redacted(self, text: str) -> str:
        """What a server answers may repeat what it was sent."""
        return text.replace(self._token, "***") if self._token else text

    def token(self) -> str:
        """The configured one, or what the file holds now: a workload identity is renewed before it expires."""
        if self._config.token_file:
            file = Path(self._config.token_file)
            try:
                stat = file.stat()
                read = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                if read != self._token_read:
                    token = file.read_text(encoding="ascii").strip()
                    if not is_token(token):
                        raise AdapterError(f"token_file {file}: it holds something else than a token")
                    self._token, self._token_read = token, read
            except (OSError, UnicodeDecodeError) as e:
                raise AdapterError(f"token_file {file}: {e}") from e
        return self._token


async def _split(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = bytearray()
    going_on = True
    while going_on:
        try:
            # Until a line is complete: bytes that never become one are as bad as none.
            async with asyncio.timeout(SILENCE):
                going_on = await _read_line(response.content, rest)
        except TimeoutError as e:
            raise AdapterError(f"not even an empty line within {SILENCE:g} s") from e
        *lines, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line.strip():
                yield line
    said = bytes(rest[:300]).decode(errors="replace").strip()
    raise AdapterError(f"the server has ended the stream{': ' + said if said else ''}")


async def _read_line(content: aiohttp.StreamReader, rest: bytearray) -> bool:
    """Add to `rest` until the end of a line is in it; False when the stream ended before that."""
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            return True
        if len(rest) > MAX_BODY:
            raise AdapterError(f"a line is larger than {MAX_BODY // 1024 // 1024} MiB")
    return False


def failure(status: int, body: bytes) -> AdapterError:
    """What an answer that is no 200 means."""
    said = " ".join(body[:300].decode(errors="replace").split())
    text = f"{status} {said}".strip()
    if status in (401, 403):
        return ForbiddenError(f"{text} (the token is unknown, has expired, or lacks a capability)")
    if status in (404, 405, 501) or said.startswith("Unknown allocation"):  # which is a 500 where ACLs are on
        return NotThereError(text)
    if status == 429:
        return AdapterError(f"{text} (a limit of the agent; see max_connections and limits.http_max_conns_per_client)")
    if 300 <= status < 400:
        return RefusedError(f"{text}: a redirection, which is not followed; is this Nomad?")
    if status == 400:
        return RefusedError(text)
    return AdapterError(text)
