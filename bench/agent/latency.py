"""How long one request takes, over a connection that stays: the paths take turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from bench.rows import quantile

ROUNDS, REQUESTS = 60, 100
WARM_UP = 200


class Client:
    """One connection that asks and waits. It does as little as can be done: what it costs is in every path's figure."""

    def __init__(self, port: int, host: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    def ask(self) -> float:
        """Seconds until the whole answer is there. Raises RuntimeError for another answer than 200."""
        began = time.perf_counter()
        self._socket.sendall(self._request)
        answer = self._socket.recv(65536)
        while b"\r\n\r\n" not in answer or not _is_whole(answer):
            more = self._socket.recv(65536)
            if not more:
                raise RuntimeError(f"the connection ended: {answer[:200]!r}")
            answer += more
        took = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"expected 200, got {answer[:200]!r}")
        return took

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")


def measure(ports: Mapping[str, int], host: str) -> dict[str, float]:
    """The median milliseconds of a request to each port, by the name of the path."""
    clients = {name: Client(port, host) for name, port in ports.items()}
    try:
        for client in clients.values():
            for _ in range(WARM_UP):
                client.ask()
        took: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                took[name] += [client.ask() for _ in range(REQUESTS)]
    finally:
        for client in clients.values():
            client.close()
    return {name: quantile(values, 0.5) * 1000 for name, values in took.items()}
