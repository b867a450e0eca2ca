"""What is asked of one Nomad: the only place that imports its client library.

python-nomad asks for jobs, nodes and allocations, in threads (`threads.py`), since it is synchronous. It has neither the native
services nor the check results, does not block on an index, and hands the event stream to a queue: these go through aiohttp
(`http.py`). Of the library its endpoint classes are used, not its class `Nomad`, which takes from the environment (NOMAD_TOKEN,
NOMAD_ADDR, ...) what it was not given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
import requests
from nomad.api import Allocation as AllocationEndpoint
from nomad.api import Allocations as AllocationsEndpoint
from nomad.api import Job as JobEndpoint
from nomad.api import Node as NodeEndpoint
from nomad.api.base import Requester
from nomad.api.exceptions import BaseNomadException

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.cursor import read_timeout
from isthmus.registry.nomad.answers import (
    Allocation,
    CheckResult,
    Job,
    Listing,
    Node,
    ServiceName,
    parse_allocation,
    parse_allocations,
    parse_checks,
    parse_job,
    parse_listing,
    parse_namespaces,
    parse_node,
    parse_nodes,
    parse_regions,
    parse_services,
)
from isthmus.registry.nomad.config import THREADS, NomadConfig
from isthmus.registry.nomad.http import MAX_BODY, Http, Params, failure
from isthmus.registry.nomad.threads import LimitedSession, Threads, TooLargeError

CHECK_TIMEOUT = 5.0
"""Seconds for the check results of one allocation, which a server asks of the client that runs it."""

NOT_OVER = 'ClientStatus != "complete" and ClientStatus != "failed" and ClientStatus != "lost"'

T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """A decoded answer, and what its headers say about it. `current` is whether the server that answered knows a leader."""

    value: T
    index: int
    current: bool


class NomadApi:
    """The questions that the adapter asks of one Nomad.

    Each raises AdapterError when there is no usable answer. A blocking query takes the index that was seen and its wait in
    seconds; without them it is answered at once. Needs a running event loop from its construction on; `close()` it in the end.
    """

    def __init__(self, config: NomadConfig, stats: ReadStats) -> None:
        self._config = config
        self._stats = stats
        self._within = read_timeout(config.heartbeat)
        self._http = Http(config, stats)
        self._threads = Threads(
            THREADS, lambda: LimitedSession(2 * self._within, MAX_BODY, self._http.tls, config.tls_server_name)
        )

    async def close(self) -> None:
        self._threads.close()
        await self._http.close()

    # By aiohttp.

    async def namespaces(self, index: int = 0, wait: float = 0) -> Answer[frozenset[str]]:
        """The namespaces that the token may do anything in."""
        return await self._get("/v1/namespaces", [], parse_namespaces, index, wait)

    async def services(self, index: int = 0, wait: float = 0) -> Answer[frozenset[ServiceName]]:
        """The names of all services. The index is that of the whole table: it moves with any registration."""
        return await self._get("/v1/services", self._namespaced(), parse_services, index, wait)

    async def registrations(self, name: ServiceName) -> Answer[Listing]:
        """The instances of one service."""
        path = f"/v1/service/{quote(name.name, safe='')}"
        return await self._get(path, [("namespace", name.namespace)], parse_listing)

    async def allocations_after(self, index: int, wait: float) -> Answer[tuple[Allocation, ...]]:
        """The allocations that are not over, by a blocking query."""
        return await self._get("/v1/allocations", self._not_over(), parse_allocations, index, wait)

    async def nodes_after(self, index: int, wait: float) -> Answer[tuple[Node, ...]]:
        """All nodes, without their meta, by a blocking query."""
        return await self._get("/v1/nodes", [], parse_nodes, index, wait)

    async def regions(self) -> tuple[str, ...]:
        """All regions that this one knows of, itself included."""
        return await self._plain("/v1/regions", parse_regions, self._within)

    async def checks(self, alloc: str) -> tuple[CheckResult, ...]:
        """The last results of the checks of one allocation, which its client is asked for."""
        return await self._plain(f"/v1/client/allocation/{quote(alloc, safe='')}/checks", parse_checks, CHECK_TIMEOUT)

    def events(self, topics: tuple[str, ...]) -> AsyncGenerator[bytes, None]:
        """The lines of the event stream, as they come: an empty object at first and each 30 seconds. Ends only by an error."""
        params = [*self._namespaced(), *(("topic", f"{topic}:*") for topic in topics)]
        return self._http.lines("/v1/event/stream", params, self._within)

    async def _plain(self, path: str, decode: Callable[[bytes], T], within: float) -> T:
        """An answer that has no index."""
        _, body = await self._http.get(path, [], within)
        with self._http.failures(path, within):
            value = _decoded(body, decode)
        self._stats.read()
        return value

    async def _get(
        self, path: str, params: Params, decode: Callable[[bytes], T], index: int = 0, wait: float = 0
    ) -> Answer[T]:
        if index:
            params = [*params, ("index", str(index)), ("wait", f"{int(wait * 1000)}ms")]
        within = read_timeout(wait) if index else self._within
        headers, body = await self._http.get(path, params, within)
        with self._http.failures(path, within):
            answer = _answer(headers, body, decode)
        self._stats.read()
        if index and answer.index != index:
            self._stats.wake_up()
        return answer

    # By python-nomad.

    async def allocations(self) -> Answer[tuple[Allocation, ...]]:
        """The allocations that are not over."""
        return await self._ask(AllocationsEndpoint, "", self._not_over(), parse_allocations)

    async def allocation(self, id_: str) -> Allocation:
        """One allocation."""
        return (await self._ask(AllocationEndpoint, id_, [], parse_allocation)).value

    async def job(self, namespace: str, id_: str) -> Job:
        """The specification of one job, in its latest version."""
        return (await self._ask(JobEndpoint, id_, [("namespace", namespace)], parse_job)).value

    async def node(self, id_: str) -> Node:
        """One node, whole."""
        return (await self._ask(NodeEndpoint, id_, [], parse_node)).value

    async def _ask(
        self, endpoint: type[Requester], id_: str, params: Params, decode: Callable[[bytes], T]
    ) -> Answer[T]:
        """One read by an endpoint class of the library, whose `request` gives the answer with its headers."""
        path = f"/v1/{endpoint.ENDPOINT}{'/' + id_ if id_ else ''}"
        token = self._token(path)
        query = dict(self._http.query(params))

        def read(session: requests.Session) -> requests.Response:
            requester = endpoint(address=self._http.base, token=token, session=session)
            parts = (quote(id_, safe=""),) if id_ else ()
            return requester.request(*parts, method="get", params=query)

        with self._http.failures(path, self._within):
            try:
                async with asyncio.timeout(self._within):
                    response = await self._threads.run(read)
            except BaseNomadException as e:
                if isinstance(e.nomad_resp, requests.Response):
                    raise failure(e.nomad_resp.status_code, e.nomad_resp.content) from e
                raise AdapterError(str(e.nomad_resp)) from e
            except (requests.RequestException, TooLargeError) as e:
                raise AdapterError(str(e)) from e
            if response.status_code != 200:  # to the library a redirection is an answer like any other
                raise failure(response.status_code, response.content)
            answer = _answer(response.headers, response.content, decode)
        self._stats.read()
        return answer

    def _token(self, path: str) -> str:
        with self._http.failures(path, self._within):
            return self._http.token()

    def _namespaced(self) -> Params:
        return [("namespace", self._config.namespace)]

    def _not_over(self) -> Params:
        return [*self._namespaced(), ("filter", NOT_OVER), ("task_states", "false")]


def _answer(headers: Mapping[str, Any], body: bytes, decode: Callable[[bytes], T]) -> Answer[T]:
    index = headers.get("X-Nomad-Index", "")
    if not (index.isascii() and index.isdigit() and len(index) <= 20):
        raise AdapterError(f"no X-Nomad-Index in the answer ({index[:100]!r}); is this Nomad?")
    return Answer(_decoded(body, decode), int(index), headers.get("X-Nomad-KnownLeader", "true") == "true")


def _decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(body)
    except msgspec.DecodeError as e:
        raise AdapterError(f"the answer is not what Nomad documents: {e}") from e
