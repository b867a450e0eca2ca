"""A task for Nomad: a web server on $NOMAD_PORT_http, which ends with the test run that started it.

    python nomad_task.py STATE PID

GET /health answers 503 while STATE/all or STATE/$NOMAD_ALLOC_ID exists, anything else is answered with the allocation's id. PID
is the process that it does not outlive: Nomad leaves its tasks alone when it is killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ALLOCATION = os.environ["NOMAD_ALLOC_ID"]
SECONDS_BETWEEN_LOOKS = 1.0


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        state = Path(sys.argv[1])
        ill = self.path == "/health" and ((state / "all").exists() or (state / ALLOCATION).exists())
        body = ALLOCATION.encode()
        self.send_response(503 if ill else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""


def end_with(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[2]),), daemon=True).start()
    port = int(os.environ["NOMAD_PORT_http"])  # noqa: SIM112 - Nomad keeps the case of the label
    ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
