"""Many proxies: delta ADS streams on connections of their own that acknowledge everything. `python -m bench.streams HOST:PORT N`.

Prints `ready` when every stream has all there is. From then on, a line of JSON for each load assignment that has reached the
last of them: `{"name", "first", "last"}`, with the monotonic seconds at which the first and the last stream acknowledged it.
"""

from __future__ import annotations

import asyncio
import sys
import time

import grpc
import grpc.aio
import msgspec
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from isthmus.xds.resource import TypeUrl
from isthmus.xds.server.services import DELTA_PATH
from isthmus.xds.translate.listeners import OUTBOUND_HTTP

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection per channel
    ("grpc.max_receive_message_length", -1),
)


class Arrival(msgspec.Struct, frozen=True):
    """One load assignment on all streams."""

    name: str
    first: float
    last: float


class Streams:
    """All of them, and what has reached how many."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._complete = 0
        self._acked: dict[tuple[str, str], list[float]] = {}

    async def run(self, address: str) -> None:
        """Follow until cancelled."""
        await asyncio.gather(*(self._follow(address, i) for i in range(self._number)))

    async def _follow(self, address: str, number: int) -> None:
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(DELTA_PATH)()
            node = Node(id=f"stream-{number}", cluster="bench")
            await call.write(DeltaDiscoveryRequest(node=node, type_url=TypeUrl.CLUSTER).SerializeToString())
            missing: set[str] | None = None
            complete = False
            while isinstance(message := await call.read(), bytes):  # else it is grpc.aio.EOF
                response = DeltaDiscoveryResponse.FromString(message)
                ack = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                await call.write(ack.SerializeToString())
                now = time.monotonic()
                if response.type_url == TypeUrl.CLUSTER and missing is None:
                    missing = {r.name for r in response.resources}
                    for type_url, names in (
                        (TypeUrl.ENDPOINT, sorted(missing)),
                        (TypeUrl.LISTENER, []),
                        (TypeUrl.ROUTE, [OUTBOUND_HTTP]),
                    ):
                        more = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
                        await call.write(more.SerializeToString())
                if response.type_url != TypeUrl.ENDPOINT or missing is None:
                    continue
                if complete:
                    for resource in response.resources:
                        self._arrived(resource.name, resource.version, now)
                    continue
                missing.difference_update(r.name for r in response.resources)
                if not missing:
                    complete = True
                    self._completed()

    def _completed(self) -> None:
        self._complete += 1
        if self._complete == self._number:
            print("ready", flush=True)

    def _arrived(self, name: str, version: str, now: float) -> None:
        times = self._acked.setdefault((name, version), [])
        times.append(now)
        if len(times) == self._number:
            del self._acked[name, version]  # the same content may come again
            print(msgspec.json.encode(Arrival(name, min(times), max(times))).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(Streams(int(sys.argv[2])).run(sys.argv[1]))
