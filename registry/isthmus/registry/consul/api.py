"""Consul over HTTP: the only place that imports its client library.

Of py-consul only the asyncio transport is used. Its `Consul` class reads CONSUL_HTTP_* from the environment and lets that win
over what it was given, and drops the headers that say how far an answer can be trusted.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from consul import aio, base
from yarl import URL

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.connection import keepalive_socket, tls_context
from isthmus.registry.consul.answers import Checks, Listing, parse_checks, parse_listing, parse_names
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.cursor import read_timeout

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer; 1,500 instances of one service with their checks are about 3 MB."""

CONNECT_TIMEOUT = 5.0

T = TypeVar("T")
Params = list[tuple[str, str]]


class RefusedError(AdapterError):
    """Consul answered, and asking the same again will not help: the token or the query is wrong."""


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A decoded answer, and what its headers say about it.

    `current` is whether the server that answered knows a leader. `filtered` is whether ACLs have taken something away, so that
    what is absent may exist nevertheless; None when that cannot be told from this answer.
    """

    value: T
    index: int
    current: bool
    filtered: bool | None


class ConsulApi:
    """The questions that the adapter asks of one Consul.

    Most take the index of a blocking query and its wait in seconds, or neither for an answer at once. All raise AdapterError
    when there is no usable answer. Needs a running event loop from its construction on; `close()` it in the end.
    """

    def __init__(self, config: ConsulConfig, stats: ReadStats) -> None:
        self._config = config
        self._stats = stats
        self._http = _Transport(config)

    async def close(self) -> None:
        await self._http.close()

    async def names(self, index: int = 0, wait: float = 0) -> Answer[dict[str, frozenset[str]]]:
        """The names of all services, with their tags: wakes when any registration changes."""
        return await self._get("/v1/catalog/services", [], index, wait, parse_names)

    async def troubles(self, index: int = 0, wait: float = 0) -> Answer[Checks]:
        """All checks that do not pass: wakes when the status of any check changes."""
        return await self._get("/v1/health/state/any", [("filter", 'Status != "passing"')], index, wait, parse_checks)

    async def checks(self) -> Answer[Checks]:
        """All checks, the passing ones too: some 400 bytes for each, and what it has to say."""
        return await self._get("/v1/health/state/any", [], 0, 0, parse_checks)

    async def instances(self, service: str, index: int = 0, wait: float = 0) -> Answer[Listing]:
        """The instances of one service, whatever their health."""
        return await self._get(f"/v1/health/service/{service}", [], index, wait, parse_listing)

    async def instances_for_certain(self, service: str) -> Answer[Listing]:
        """The same, at once and from the leader: behind no other answer, and it says whether ACLs filtered it."""
        return await self._get(f"/v1/health/service/{service}", [], 0, 0, parse_listing, stale=False)

    async def _get(
        self,
        path: str,
        params: Params,
        index: int,
        wait: float,
        decode: Callable[[bytes], T],
        *,
        stale: bool = True,
    ) -> Answer[T]:
        within = read_timeout(wait if index else self._config.heartbeat)
        asked = f"consul at {self._config.address}: GET {path}"
        try:
            answer = await self._http.get(
                lambda response: self._read(response, decode),
                path,
                params=self._params(index, wait, stale) + params,
                headers={"X-Consul-Token": self._config.token} if self._config.token else None,
                connections_timeout=within,
            )
        except AdapterError as e:
            self._stats.failed()
            raise type(e)(self._redacted(f"{asked}: {e}")) from None
        except TimeoutError as e:
            self._stats.failed()
            raise AdapterError(f"{asked}: no answer within {within:.1f} s") from e
        except (aiohttp.ClientError, OSError, ssl.SSLError) as e:
            self._stats.failed()
            raise AdapterError(f"{asked}: {str(e) or type(e).__name__}") from e
        self._stats.read()
        if index and answer.index != index:
            self._stats.wake_up()
        return answer

    def _redacted(self, text: str) -> str:
        """What a server answers may repeat what it was sent."""
        return text.replace(self._config.token, "***") if self._config.token else text

    def _params(self, index: int, wait: float, stale: bool) -> Params:
        config = self._config
        params = [("dc", config.datacenter), ("ns", config.namespace), ("partition", config.partition)]
        params = [(k, v) for k, v in params if v]
        if config.consistency == "consistent" or (config.consistency == "stale" and stale):
            params.append((config.consistency, ""))
        if index:
            params += [("index", str(index)), ("wait", f"{int(wait * 1000)}ms")]
        return params

    def _read(self, response: base.Response, decode: Callable[[bytes], T]) -> Answer[T]:
        headers: Mapping[str, str] = response.headers
        if response.code != 200:
            raise _failure(response.code, response.body)
        index = headers.get("X-Consul-Index", "")
        if not (index.isascii() and index.isdigit() and len(index) <= 20):
            raise AdapterError(f"no X-Consul-Index in the answer ({index!r}); is this Consul?")
        last_contact = headers.get("X-Consul-LastContact", "")
        seconds = int(last_contact) / 1000 if last_contact.isascii() and last_contact.isdigit() else 0.0
        if seconds > self._config.max_stale:
            raise AdapterError(
                f"the server that answered last heard of a leader {seconds:.0f} s ago; max_stale is "
                f"{self._config.max_stale:g} s"
            )
        try:
            value = decode(response.body)
        except msgspec.DecodeError as e:
            raise AdapterError(f"the answer is not what Consul documents: {e}") from e
        return Answer(value, int(index), headers.get("X-Consul-KnownLeader", "true") == "true", self._filtered(headers))

    def _filtered(self, headers: Mapping[str, str]) -> bool | None:
        if headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
            return True
        policy = headers.get("X-Consul-Default-ACL-Policy")
        if not policy:
            return False  # there are no ACLs
        if not self._config.token and policy == "deny":
            return None  # Consul tells those only whom it knows
        if headers.get("X-Consul-Query-Backend") == "streaming":
            return None  # blocking queries about one service never tell
        return False


def _failure(status: int, body: bytes) -> AdapterError:
    said = " ".join(body[:300].decode(errors="replace").split())
    text = f"{status} {said}".strip()
    if status == 403:
        return RefusedError(f"{text} (the token is unknown, expired or lacks service and node read)")
    if status == 429:
        return AdapterError(f"{text} (a limit of the agent; see max_connections and limits.http_max_conns_per_client)")
    if 300 <= status < 400:
        return RefusedError(f"{text}: a redirection, which is not followed; is this Consul?")
    if status in (400, 401, 404, 405):
        return RefusedError(text)
    return AdapterError(text)


class _Transport(aio.HTTPClient):
    """py-consul's transport, with limits on time, size and connections, and without following redirections."""

    def __init__(self, config: ConsulConfig) -> None:
        parts = urlsplit(config.address)
        host = parts.hostname or ""
        port = parts.port or (8501 if parts.scheme == "https" else 8500)
        base.HTTPClient.__init__(self, f"[{host}]" if ":" in host else host, port, parts.scheme)
        self._server_name = config.tls_server_name or None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=config.max_connections,
                ssl=tls_context(config, f"consul at {config.address}") if parts.scheme == "https" else True,
                socket_factory=keepalive_socket,
            ),
            # The agent is near, often on this machine: compression costs both sides more than it saves.
            headers={"Accept-Encoding": "identity", "User-Agent": "isthmus"},
        )

    async def _request(  # noqa: PLR0917 - the signature is py-consul's
        self,
        callback: Callable[[base.Response], T],
        method: str,
        uri: str,
        headers: dict[str, str] | None,
        data: Any = None,
        connections_timeout: float | None = None,
        raw: bool = True,
    ) -> T:
        async with self._session.request(
            method,
            URL(uri, encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,  # the token goes to nobody else
            server_hostname=self._server_name,
            timeout=aiohttp.ClientTimeout(total=connections_timeout, sock_connect=CONNECT_TIMEOUT),
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise AdapterError(f"the answer is larger than {MAX_BODY // 1024 // 1024} MiB")
            return callback(base.Response(response.status, response.headers, body))
