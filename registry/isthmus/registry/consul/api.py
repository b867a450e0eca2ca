"""Consul over HTTP: the only place that imports its client library.

Of py-consul only the asyncio transport is used. Its `Consul` class reads CONSUL_HTTP_* from the environment and lets that win
over what it was given, and drops the headers that say how far an answer can be trusted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from consul import aio, base
from yarl import URL

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.connection import keepalive_socket, tls_context
from isthmus.registry.consul.answers import Listing, parse_listing
from isthmus.registry.consul.budget import ReadBudget
from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.consul.lists import (
    Checks,
    Peering,
    parse_checks,
    parse_names,
    parse_nodes,
    parse_peering,
    parse_registered,
    parse_self,
)
from isthmus.registry.consul.query import Query, Urgency
from isthmus.registry.consul.trust import RefusedError, parse_headers, refusal
from isthmus.registry.cursor import read_timeout

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one answer; 1,500 instances of one service with their checks are about 3 MB."""

CONNECT_TIMEOUT = 5.0

NO_TAG = NO_ID = "isthmus:none"
"""A tag, and an id, that no instance has."""

T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A decoded answer, and what its headers say about it (`trust.Said`)."""

    value: T
    index: int
    current: bool
    filtered: bool | None


class ConsulApi:
    """The questions that the adapter asks of one Consul.

    Most take the index of a blocking query and its wait in seconds, or neither for an answer at once. All raise AdapterError
    when there is no usable answer, and first wait until `budget` has a read left. Needs a running event loop from its
    construction on; `close()` it in the end. There are never more than `connections`.
    """

    def __init__(self, config: ConsulConfig, budget: ReadBudget, stats: ReadStats, connections: int) -> None:
        self._config = config
        self._budget = budget
        self._stats = stats
        self._http = _Transport(config, connections)

    async def close(self) -> None:
        await self._http.close()

    def delay(self, urgency: Urgency) -> float:
        """Seconds until something of this urgency may be asked."""
        return self._budget.delay(urgency)

    async def names(self, index: int = 0, wait: float = 0) -> Answer[dict[str, frozenset[str]]]:
        """The names of all services, with their tags: wakes when any registration changes."""
        return await self._get(Query("/v1/catalog/services", Urgency.HINT, index, wait), parse_names)

    async def imported(self) -> Answer[Peering]:
        """What the configured peer exports to us, and whether it can be heard; from the leader, who alone knows."""
        partition = (("partition", self._config.partition),) if self._config.partition else ()
        path = f"/v1/peering/{self._config.peer}"
        return await self._get(Query(path, Urgency.HINT, stale=False, apart=True, options=partition), parse_peering)

    async def troubles(self, index: int = 0, wait: float = 0) -> Answer[Checks]:
        """All checks that do not pass: wakes when the status of any check changes."""
        some = (("filter", 'Status != "passing"'),)
        return await self._get(Query("/v1/health/state/any", Urgency.HINT, index, wait, options=some), parse_checks)

    async def checks(self) -> Answer[Checks]:
        """All checks, the passing ones too: some 400 bytes for each, and what it has to say."""
        return await self._get(Query("/v1/health/state/any", Urgency.HINT), parse_checks)

    async def nodes(self, index: int = 0, wait: float = 0) -> Answer[dict[str, int]]:
        """All nodes, each with the index of its last change: wakes when one comes, goes or is registered otherwise."""
        return await self._get(Query("/v1/catalog/nodes", Urgency.HINT, index, wait), parse_nodes)

    async def watch(self, service: str, index: int, wait: float) -> Answer[Listing]:
        """The instances of one service, whatever their health, as soon as anything about them is not as at this index."""
        cached = (("cached", ""),) if index and self._config.agent_cache else ()
        return await self._get(Query(_of(service), Urgency.NAMED, index, wait, options=cached), parse_listing)

    async def instances(self, service: str, urgency: Urgency = Urgency.NAMED) -> Answer[Listing]:
        """The same, at once."""
        return await self._get(Query(_of(service), urgency), parse_listing)

    async def is_at(self, service: str, index: int) -> bool:
        """Whether the last write to Consul that concerns the service is the one with this index.

        Asked for the instances with a tag that none has, Consul answers with the index of all of them, and looks at no checks.
        """
        answer = await self._get(Query(_of(service), Urgency.PROBED, options=(("tag", NO_TAG),)), parse_listing)
        return answer.index == index

    async def node_index(self, node: str) -> int:
        """The index of the last write to Consul that concerns a node or what is registered on it; checks do not count.

        Asked for the instances with an id that none has, Consul answers with the index of all of them.
        """
        none = (("filter", f'ID == "{NO_ID}"'),)
        return (await self._get(Query(_on(node), Urgency.PROBED, options=none), parse_registered)).index

    async def registered(self, node: str) -> Answer[dict[tuple[str, str], int]]:
        """What is registered on a node: by the service's name and the instance's id the index at which it was last."""
        return await self._get(Query(_on(node), Urgency.NAMED), parse_registered)

    async def instances_for_certain(self, service: str) -> Answer[Listing]:
        """The same, at once and from the leader: behind no other answer, and it says whether ACLs filtered it."""
        return await self._get(Query(_of(service), Urgency.NAMED, stale=False), parse_listing)

    async def own_datacenter(self) -> str:
        """The datacenter of the agent that is asked; empty where the token may not know."""
        try:
            return (await self._get(Query("/v1/agent/self", Urgency.HINT, apart=True), parse_self)).value
        except RefusedError:
            # Where the servers are may be known to whoever may read services and nodes.
            servers = await self._get(Query(_of("consul"), Urgency.HINT, apart=True), parse_listing)
            return next((e.node.datacenter for e in servers.value.entries), "")

    async def _get(self, query: Query, decode: Callable[[bytes], T]) -> Answer[T]:
        within = read_timeout(query.wait if query.index else self._config.heartbeat)
        asked = f"consul at {self._config.address}: GET {query.path}"
        await self._budget.ready(query.urgency)
        if not query.index:
            self._budget.spend()
        try:
            answer = await self._http.get(
                lambda response: self._read(query, response, decode),
                query.path,
                params=query.params(self._config),
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
        finally:
            if query.index:
                self._budget.spend()
        self._stats.read()
        if query.index and answer.index != query.index:
            self._stats.wake_up()
        return answer

    def _redacted(self, text: str) -> str:
        """What a server answers may repeat what it was sent."""
        return text.replace(self._config.token, "***") if self._config.token else text

    def _read(self, query: Query, response: base.Response, decode: Callable[[bytes], T]) -> Answer[T]:
        if response.code != 200:
            raise refusal(response.code, response.body)
        said = parse_headers(response.headers, with_token=bool(self._config.token), indexed=not query.apart)
        if said.age > self._config.max_stale:
            raise AdapterError(
                f"the answer may be {said.age:.0f} s old, for whoever gave it last heard from a leader or a server then; "
                f"max_stale is {self._config.max_stale:g} s"
            )
        try:
            value = decode(response.body)
        except msgspec.DecodeError as e:
            raise AdapterError(f"the answer is not what Consul documents: {e}") from e
        return Answer(value, said.index, said.current, said.filtered)


def _of(service: str) -> str:
    return f"/v1/health/service/{service}"


def _on(node: str) -> str:
    return f"/v1/catalog/node-services/{node}"


class _Transport(aio.HTTPClient):
    """py-consul's transport, with limits on time, size and connections, and without following redirections."""

    def __init__(self, config: ConsulConfig, connections: int) -> None:
        parts = urlsplit(config.address)
        host = parts.hostname or ""
        port = parts.port or (8501 if parts.scheme == "https" else 8500)
        base.HTTPClient.__init__(self, f"[{host}]" if ":" in host else host, port, parts.scheme)
        self._server_name = config.tls_server_name or None
        self._body_within = read_timeout(config.heartbeat)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections,
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
            # A blocking query may wait for long before its answer begins, and not in the middle of it.
            limit = asyncio.timeout(self._body_within)
            try:
                async with limit:
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > MAX_BODY:
                            raise AdapterError(f"the answer is larger than {MAX_BODY // 1024 // 1024} MiB")
            except TimeoutError as e:
                if not limit.expired():
                    raise
                raise AdapterError(f"the answer began, and was not complete within {self._body_within:.1f} s") from e
            return callback(base.Response(response.status, response.headers, body))
