"""A delta ADS server in this process that sends what a test says, and keeps what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Self

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyMessage

from isthmus.xds.server.services import DELTA_PATH
from tests.servers.process import free_port
from tests.wait import eventually


class ScriptedXds:
    """From `async with` to its end, at an address that it keeps when it is stopped and started again."""

    def __init__(self, type_url: str) -> None:
        self._type_url = type_url
        self.address = f"127.0.0.1:{free_port()}"
        self.streams: list[list[DeltaDiscoveryRequest]] = []
        """The requests of each stream, in order."""
        self._outgoing: asyncio.Queue[DeltaDiscoveryResponse | None] = asyncio.Queue()
        self._nonces = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            DELTA_PATH.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(
                self._serve,
                request_deserializer=DeltaDiscoveryRequest.FromString,
                response_serializer=DeltaDiscoveryResponse.SerializeToString,
            )
        }
        service = DELTA_PATH.strip("/").partition("/")[0]
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_insecure_port(self.address)
        self._outgoing = asyncio.Queue()
        await self._server.start()

    async def stop(self) -> None:
        """End all streams, and do not listen."""
        await self._server.stop(None)

    def send(self, resources: Mapping[str, tuple[str, bytes]] | None = None, removed: Iterable[str] = ()) -> str:
        """Send a response with resources, version and body by name, on the stream that is open; returns its nonce."""
        self._nonces += 1
        response = DeltaDiscoveryResponse(
            type_url=self._type_url, nonce=f"n{self._nonces}", removed_resources=list(removed)
        )
        for name, (version, body) in (resources or {}).items():
            inner = AnyMessage(type_url=self._type_url, value=body)
            response.resources.append(Resource(name=name, version=version, resource=inner))
        self._outgoing.put_nowait(response)
        return response.nonce

    def hang_up(self) -> None:
        """End the stream that is open, in good order."""
        self._outgoing.put_nowait(None)

    async def first(self, stream: int = 0) -> DeltaDiscoveryRequest:
        """The first request of the nth stream."""
        await eventually(lambda: len(self.streams) > stream and self.streams[stream], f"stream {stream} asks")
        return self.streams[stream][0]

    async def settled(self, nonce: str) -> DeltaDiscoveryRequest:
        """The request that accepts or refuses a response."""

        def found() -> DeltaDiscoveryRequest | None:
            return next((r for stream in self.streams for r in stream if r.response_nonce == nonce), None)

        request = await eventually(found, f"{nonce} is acknowledged or refused")
        assert request is not None
        return request

    async def _serve(
        self, requests: AsyncIterator[DeltaDiscoveryRequest], _context: object
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        seen: list[DeltaDiscoveryRequest] = []
        self.streams.append(seen)

        async def read() -> None:
            async for request in requests:
                seen.append(request)  # noqa: PERF401 - each is looked for while more come

        reading = asyncio.create_task(read())
        try:
            while (response := await self._outgoing.get()) is not None:
                yield response
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
