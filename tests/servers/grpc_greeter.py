"""A gRPC service without generated code: raw bytes in, the name of who answers out.

    python -m tests.servers.grpc_greeter NAME ADDRESS

runs one that follows xDS (GRPC_XDS_BOOTSTRAP), in a process of its own: a gRPC library reads its bootstrap once.
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import grpc
import grpc.aio

SERVICE, METHOD = "isthmus.test.Greeter", "Who"


class Greeter:
    """The service on a port of 127.0.0.1, in this process and without xDS."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        async def who(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            del request, context
            return self.name.encode()

        server = self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {METHOD: grpc.unary_unary_rpc_method_handler(who)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()

    async def stop(self) -> None:
        """Accept nothing new, finish what has begun."""
        if self._server is not None:
            await self._server.stop(5)
            self._server = None


def main(name: str, address: str) -> None:
    """Serve until SIGTERM, on an address and only while the control plane has a listener for it."""

    def who(request: bytes, context: grpc.ServicerContext) -> bytes:
        del request, context
        return name.encode()

    server = grpc.server(ThreadPoolExecutor(4), xds=True)
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {METHOD: grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_secure_port(address, grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    server.start()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.stop(1)

    signal.signal(signal.SIGTERM, stop)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
