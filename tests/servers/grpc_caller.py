"""Calls a target over and over with grpcio, and prints how each call ended.

    python -m tests.servers.grpc_caller TARGET PATH

A program of its own, since a gRPC library reads its xDS bootstrap (GRPC_XDS_BOOTSTRAP) once in a process. grpc_caller.js is the
same for Node.js.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import grpc

CALLERS = 2
PAUSE = 0.005
"""Seconds between two calls of one caller."""
DEADLINE = 20


def call(channel: grpc.Channel, path: str) -> dict[str, str | float]:
    """One call: who answered or what went wrong, and how many seconds that took."""
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    began = time.monotonic()
    try:
        answer = {"answer": method(b"", timeout=DEADLINE).decode()}
    except grpc.RpcError as e:
        answer = {"failure": f"{e.code().name} {e.details()}"}
    return answer | {"seconds": time.monotonic() - began}


def main(target: str, path: str) -> None:
    """Call until the process is ended."""
    lock = threading.Lock()

    def run(channel: grpc.Channel) -> None:
        while True:
            line = json.dumps(call(channel, path)) + "\n"
            with lock:
                sys.stdout.write(line)
                sys.stdout.flush()
            time.sleep(PAUSE)

    with grpc.insecure_channel(target) as channel:
        threads = [threading.Thread(target=run, args=(channel,), daemon=True) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
