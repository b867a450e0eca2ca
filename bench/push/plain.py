"""The server that one writes in an afternoon: grpc.aio, and a response made from messages for every stream and every push.

`python -m bench.push.plain RESOURCES` serves the resources of one type that the DiscoveryResponse in a file holds. It keeps them
as messages, so what it does per stream is to pack them, wrap them and have gRPC serialise that. It says `{"address"}`. The order
`{"change": n}` changes the first resource and pushes; `{"node": path}` writes the node that came last into a file, if one came.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # The defaults (1,000 and 3,000) cancel streams when thousands connect at once.
    ("grpc.server.max_pending_requests", 1_000_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
)

Resource = Cluster | ClusterLoadAssignment
Context = grpc.aio.ServicerContext[Any, Any]


class Plain:
    """The resources of one type, and the streams that follow them."""

    def __init__(self, type_url: str, resources: list[Resource]) -> None:
        self._type_url = type_url
        self._resources = resources
        self._version = 1
        self.node = b""
        self._streams: set[asyncio.Event] = set()

    def change(self, number: int) -> None:
        """Change the first resource, and wake every stream."""
        first = self._resources[0]
        if isinstance(first, Cluster):
            first.connect_timeout.nanos = 1 + number % 100
        else:
            first.endpoints[0].lb_endpoints[0].load_balancing_weight.value = 100 + number % 100
        self._version += 1
        for changed in self._streams:
            changed.set()

    async def sotw(self, _: object, context: Context) -> None:
        """A state-of-the-world stream of that type."""
        await self._follow(context, self._all)

    async def delta(self, _: object, context: Context) -> None:
        """A delta stream of that type."""
        await self._follow(context, self._changed)

    async def _follow(self, context: Context, response: Callable[[bool], Any]) -> None:
        self.node = (await context.read()).node.SerializeToString()
        changed = asyncio.Event()
        self._streams.add(changed)
        reader = asyncio.ensure_future(_acknowledged(context))
        try:
            await context.write(response(True))
            while True:
                await changed.wait()
                changed.clear()
                await context.write(response(False))
        finally:
            reader.cancel()
            self._streams.discard(changed)

    def _all(self, _: bool) -> DiscoveryResponse:
        response = DiscoveryResponse(version_info=str(self._version), type_url=self._type_url, nonce=str(self._version))
        for resource in self._resources:
            response.resources.add().Pack(resource)
        return response

    def _changed(self, everything: bool) -> DeltaDiscoveryResponse:
        response = DeltaDiscoveryResponse(type_url=self._type_url, nonce=str(self._version))
        for resource in self._resources if everything else self._resources[:1]:
            name = resource.name if isinstance(resource, Cluster) else resource.cluster_name
            response.resources.add(name=name, version=str(self._version)).resource.Pack(resource)
        return response


async def _acknowledged(context: Context) -> None:
    while await context.read() is not grpc.aio.EOF:
        pass


async def main(path: str) -> None:
    """Serve until standard input ends."""
    found = DiscoveryResponse.FromString(Path(path).read_bytes())
    kind = Cluster if found.type_url.endswith(".Cluster") else ClusterLoadAssignment
    plain = Plain(found.type_url, [kind.FromString(packed.value) for packed in found.resources])
    server = grpc.aio.server(options=_OPTIONS)
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
            plain.sotw, DiscoveryRequest.FromString, DiscoveryResponse.SerializeToString
        ),
        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
            plain.delta, DeltaDiscoveryRequest.FromString, DeltaDiscoveryResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say(address=f"127.0.0.1:{port}")
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        if "change" in order:
            plain.change(order["change"])
        elif plain.node:
            Path(order["node"]).write_bytes(plain.node)
        _say(node=len(plain.node))


def _say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
