"""A small ADS client over raw gRPC that does what a test tells it, in either variant of the protocol."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import NamedTuple, Self

import grpc
import grpc.aio
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.services import DELTA_PATH, SOTW_PATH

CDS, EDS, LDS, RDS = TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER, TypeUrl.ROUTE
_BARRIER = "type.googleapis.com/isthmus.test.Barrier"
_PATIENCE = 10.0


class Answer(NamedTuple):
    """One response. `resources` holds the encoded bodies by name (state of the world: as far as the test's types tell it)."""

    type_url: str
    version: str
    nonce: str
    resources: Mapping[str, bytes]
    versions: Mapping[str, str]
    removed: tuple[str, ...]

    def endpoints(self, cluster: str) -> set[str]:
        """Addresses in a load assignment of this response."""
        assignment = ClusterLoadAssignment.FromString(self.resources[cluster])
        return {
            f"{e.endpoint.address.socket_address.address}:{e.endpoint.address.socket_address.port_value}"
            for group in assignment.endpoints
            for e in group.lb_endpoints
        }


class Refused(Exception):  # noqa: N818 - a word of the protocol
    """The server ended the stream."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text


class Client:
    """One stream. `subscribe`, then `expect` and `ack` or `nack`; `converge` does all of it as an Envoy would."""

    def __init__(
        self,
        address: str,
        *,
        node: str = "envoy",
        delta: bool = True,
        path: str = "",
        agent: str = "test",
        outbound: str = "",
    ) -> None:
        self.node = node
        self._agent = agent
        self._outbound = outbound
        self.delta = delta
        self.held: dict[str, dict[str, str]] = {t: {} for t in TypeUrl}
        """Versions of what it has acknowledged, by type and name (state of the world: the type's under the empty name)."""
        self.bodies: dict[str, dict[str, bytes]] = {t: {} for t in TypeUrl}
        self.answers: list[Answer] = []
        """All that it received."""
        self._names: dict[str, set[str]] = {}
        self._last: dict[str, Answer] = {}
        self._barriers = itertools.count(1)
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        )
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(
            path or (DELTA_PATH if delta else SOTW_PATH)
        )()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._channel.close()

    async def send(self, message: bytes) -> None:
        """Any bytes, as one message."""
        await self._call.write(message)

    async def subscribe(
        self, type_url: str, names: Iterable[str] = (), *, versions: Mapping[str, str] | None = None
    ) -> None:
        """Ask for names, all of a type without any; `versions` is what is held from an earlier stream."""
        first = not self._names
        known = self._names.setdefault(type_url, set())
        new = set(names) - known
        known |= new
        if self.delta:
            await self._request(
                DeltaDiscoveryRequest(
                    type_url=type_url, resource_names_subscribe=sorted(new), initial_resource_versions=versions or {}
                ),
                first,
            )
        else:
            last = self._last.get(type_url)
            await self._request(
                DiscoveryRequest(
                    type_url=type_url,
                    resource_names=sorted(known),
                    version_info=(versions or {}).get("", last.version if last else ""),
                    response_nonce=last.nonce if last else "",
                ),
                first,
            )

    async def expect(self, type_url: str | None = None) -> Answer:
        """The next response, which must be of the type if one is given.

        Raises:
            Refused: the stream has ended.

        """
        try:
            async with asyncio.timeout(_PATIENCE):
                message = await self._call.read()
        except grpc.aio.AioRpcError as e:
            raise Refused(e.code(), e.details() or "") from None
        if not isinstance(message, bytes):
            raise Refused(await self._call.code(), await self._call.details())
        answer = _delta_answer(message) if self.delta else _sotw_answer(message)
        self.answers.append(answer)
        self._last[answer.type_url] = answer
        assert type_url in (None, answer.type_url), f"expected {type_url}, got {answer}"
        return answer

    async def ack(self, answer: Answer) -> None:
        if answer.type_url in self.held:
            held, bodies = self.held[answer.type_url], self.bodies[answer.type_url]
            if not self.delta and answer.type_url in (CDS, LDS):
                bodies.clear()
            held.update(answer.versions)
            bodies.update(answer.resources)
            for name in answer.removed:
                held.pop(name, None)
                bodies.pop(name, None)
        await self._settle(answer, None)

    async def nack(self, answer: Answer, text: str) -> None:
        await self._settle(answer, Status(code=3, message=text))

    async def take(self, type_url: str) -> Answer:
        """Expect and acknowledge."""
        answer = await self.expect(type_url)
        await self.ack(answer)
        return answer

    async def barrier(self) -> list[Answer]:
        """What the server sent before it answered a question asked now; delta only. Nothing of it is acknowledged."""
        assert self.delta
        name = str(next(self._barriers))
        await self.subscribe(_BARRIER, [name])
        before: list[Answer] = []
        while (answer := await self.expect()).type_url != _BARRIER:
            before.append(answer)
        assert answer.removed == (name,)
        await self._settle(answer, None)
        return before

    async def converge(self, versions: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Ask for everything as an Envoy does, and acknowledge it; with `versions`, come back with what is held."""
        if versions is not None:
            self.held = {t: dict(v) for t, v in versions.items()}
            for type_url in (CDS, LDS):
                await self.subscribe(type_url, versions=versions[type_url])
            for type_url in (EDS, RDS):
                await self.subscribe(type_url, versions[type_url], versions=versions[type_url])
            await self.barrier()
            return
        for type_url, follower in ((CDS, EDS), (LDS, RDS)):
            await self.subscribe(type_url)
            answer = await self.take(type_url)
            names = set(answer.resources) if follower is EDS else _routes(answer)
            if names:
                await self.subscribe(follower, names)
                await self.take(follower)

    async def _settle(self, answer: Answer, error: Status | None) -> None:
        if self.delta:
            await self._request(
                DeltaDiscoveryRequest(type_url=answer.type_url, response_nonce=answer.nonce, error_detail=error)
            )
        else:
            await self._request(
                DiscoveryRequest(
                    type_url=answer.type_url,
                    resource_names=sorted(self._names[answer.type_url]),
                    version_info=answer.version if error is None else "",
                    response_nonce=answer.nonce,
                    error_detail=error,
                )
            )

    async def _request(self, request: DiscoveryRequest | DeltaDiscoveryRequest, first: bool = False) -> None:
        if first:
            request.node.id = self.node
            request.node.user_agent_name = self._agent
            if self._outbound:
                request.node.metadata["OUTBOUND"] = self._outbound
        await self.send(request.SerializeToString())


def _routes(answer: Answer) -> set[str]:
    """Names of the route configurations that listeners ask for, found in their bytes as strings of Envoy's filter."""
    names: set[str] = set()
    for body in answer.resources.values():
        for chain in Listener.FromString(body).filter_chains:
            for part in chain.filters:
                manager = HttpConnectionManager()
                if part.typed_config.Unpack(manager):
                    names.add(manager.rds.route_config_name)
    return names


def _delta_answer(message: bytes) -> Answer:
    response = DeltaDiscoveryResponse.FromString(message)
    return Answer(
        response.type_url,
        response.system_version_info,
        response.nonce,
        {r.name: r.resource.value for r in response.resources},
        {r.name: r.version for r in response.resources},
        tuple(response.removed_resources),
    )


def _sotw_answer(message: bytes) -> Answer:
    response = DiscoveryResponse.FromString(message)
    resources = {_name(any_message): any_message.value for any_message in response.resources}
    return Answer(response.type_url, response.version_info, response.nonce, resources, {"": response.version_info}, ())


def _name(message: AnyMessage) -> str:
    """All four types have their name in field 1, and it comes first."""
    body = message.value
    assert body[0] == 0x0A
    length, position, shift = 0, 1, 0
    while True:
        byte = body[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return body[position : position + length].decode()
