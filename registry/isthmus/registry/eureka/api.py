"""Eureka over HTTP: the questions that are asked of one server."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.connection import tls_context
from isthmus.registry.eureka.answers import Entry, Listing, parse_instance, parse_listing
from isthmus.registry.eureka.config import EurekaConfig
from isthmus.registry.thread import in_thread

MAX_BODY = 256 * 1024 * 1024
"""Bytes of one answer when it is unpacked; 50,000 instances are about 50 MB."""

LARGE_BODY = 1024 * 1024
"""Bytes from which on an answer is parsed in a thread: that takes a millisecond for each."""

CONNECT_TIMEOUT = 5.0

FULL_TIMEOUT = 60.0
"""Seconds for a complete listing, however steadily it comes."""

T = TypeVar("T")


class NoSuchError(AdapterError):
    """The server answers, and does not have this (404), or does not give it (403)."""


def server_name(address: str) -> str:
    """`host:port` of a server's address."""
    return urlsplit(address).netloc


class EurekaApi:
    """The servers of one Eureka, asked one at a time.

    Every question raises AdapterError when there is no usable answer. Needs a running event loop from its construction on;
    `close()` it in the end.
    """

    def __init__(self, config: EurekaConfig, stats: ReadStats) -> None:
        self._config = config
        self._stats = stats
        self._params = {"regions": ",".join(config.regions)} if config.regions else {}
        secure = any(a.startswith("https://") for a in config.addresses)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=16, ssl=tls_context(config, f"eureka at {config.addresses[0]}") if secure else True
            ),
            headers=_headers(config),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    async def everything(self, server: str) -> Listing:
        """All that one server has."""
        return await self._get(server, "/apps", FULL_TIMEOUT, parse_listing, self._params)

    async def changes(self, server: str) -> Listing:
        """What changed in the last three minutes.

        Raises:
            NoSuchError: the server makes no deltas, or is still syncing.

        """
        return await self._get(server, "/apps/delta", FULL_TIMEOUT, parse_listing, self._params)

    async def changes_in_brief(self, server: str) -> Listing:
        """The same with less of each instance: neither lease nor metadata. Servers that cannot do that say all of it.

        Raises:
            NoSuchError: the server makes no deltas, or is still syncing.

        """
        brief = {"X-Eureka-Accept": "compact"}
        return await self._get(server, "/apps/delta", FULL_TIMEOUT, parse_listing, self._params, headers=brief)

    async def instance(self, server: str, app: str, id_: str) -> Entry:
        """One instance, as the server knows it this moment: this answer alone comes from no cache.

        Raises:
            NoSuchError: the server does not know it.

        """
        path = f"/apps/{quote(app, safe='')}/{quote(id_, safe='')}"
        return await self._get(server, path, self._config.timeout, lambda body: parse_instance(body, app), {})

    async def _get(
        self,
        server: str,
        path: str,
        within: float,
        parse: Callable[[bytes], T],
        params: dict[str, str],
        *,
        headers: dict[str, str] | None = None,
    ) -> T:
        asked = f"eureka at {server}: GET {path}"
        try:
            async with self._session.get(
                URL(server.rstrip("/") + path, encoded=True).with_query(params),
                headers=headers,
                allow_redirects=False,  # the password goes to nobody else
                timeout=aiohttp.ClientTimeout(
                    total=within, sock_connect=CONNECT_TIMEOUT, sock_read=self._config.timeout
                ),
            ) as response:
                body = await _body(response)
                large = len(body) > LARGE_BODY
                answer = await in_thread(_read, response, body, parse) if large else _read(response, body, parse)
        except AdapterError as e:
            self._stats.failed()
            raise type(e)(f"{asked}: {e}") from None
        except TimeoutError as e:
            self._stats.failed()
            raise AdapterError(
                f"{asked}: nothing for {self._config.timeout:g} s, or not all within {within:g} s"
            ) from e
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            self._stats.failed()
            raise AdapterError(f"{asked}: {str(e) or type(e).__name__}") from e
        self._stats.read()
        return answer


def _headers(config: EurekaConfig) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "isthmus"}  # Eureka's default is XML
    if config.user:
        credentials = base64.b64encode(f"{config.user}:{config.password}".encode()).decode()
        headers["Authorization"] = f"Basic {credentials}"
    return headers


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise AdapterError(f"the answer is larger than {MAX_BODY // 1024 // 1024} MiB")
    return bytes(body)


def _read(response: aiohttp.ClientResponse, body: bytes, parse: Callable[[bytes], T]) -> T:
    if response.status != 200:
        raise _failure(response.status, body)
    if "xml" in response.headers.get("Content-Type", "").lower() or body[:64].lstrip().startswith(b"<"):
        raise AdapterError(
            "the answer is XML or HTML though JSON was asked for: a proxy in between drops the Accept header or answers "
            "itself, or the path of the address is not Eureka's (/eureka for Spring Cloud, /eureka/v2 for Netflix)"
        )
    try:
        return parse(body)
    except msgspec.DecodeError as e:
        raise AdapterError(f"the answer is not what Eureka documents: {e}") from e


def _failure(status: int, body: bytes) -> AdapterError:
    said = " ".join(body[:300].decode(errors="replace").split())
    text = f"{status} {said}".strip()
    if status == 401:
        return AdapterError(f"{text} (user or password is wrong or missing)")
    if status == 403:
        return NoSuchError(f"{text} (the server is still syncing with its peers, makes no deltas, or forbids it)")
    if status == 404:
        return NoSuchError(
            f"{text} (is the path of the address right? /eureka for Spring Cloud, /eureka/v2 for Netflix)"
        )
    if 300 <= status < 400:
        return AdapterError(f"{text}: a redirection, which is not followed; is this Eureka?")
    return AdapterError(text)
