"""What stands in the way of a request: nothing, two Envoys of agents, or two nginx in their places.

All of it runs on loopback, in processes of their own: a program that answers, the bridge, an agent beside the caller and one
beside the program.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

ISTHMUS = Path(sys.executable).with_name("isthmus")
HOST = "echo.default.mesh"


class Nginx(Process):
    """One nginx that answers by itself, or passes on to an address."""

    def __init__(self, directory: Path, upstream: str = "") -> None:
        directory.mkdir()
        self.port = free_port()
        answer = f"proxy_pass http://there; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host {HOST};"
        there = f"upstream there {{ server {upstream}; keepalive 16; }}" if upstream else ""
        (directory / "nginx.conf").write_text(
            f"""
daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  {there}
  server {{ listen 127.0.0.1:{self.port}; location / {{ {answer if upstream else 'return 200 "ok";'} }} }}
}}
"""
        )
        super().__init__(
            [peer_binary("debian", "nginx"), "-p", directory, "-c", directory / "nginx.conf"], directory / "log"
        )


class Agent(Process):
    """One agent with its Envoy."""

    def __init__(self, directory: Path, xds_port: int, settings: Mapping[str, Any]) -> None:
        directory.mkdir()
        self.ready_port, self.outbound_port, self.status_port = free_port(), free_port(), free_port()
        document = {
            "discoveryAddress": f"127.0.0.1:{xds_port}",
            "address": "127.0.0.1",
            "binaryPath": str(peer_binary("envoy", peers.ENVOYS[-1])),
            "configPath": str(directory / "state"),
            "concurrency": 1,
            "proxyAdminPort": 0,
            "statusPort": self.status_port,
            "readinessPort": self.ready_port,
            "envoyPrometheusPort": 0,
            "terminationDrainDuration": "0s",
            "outbound": {"mode": "EXPLICIT", "listen": f"127.0.0.1:{self.outbound_port}"},
            "registration": {"type": "none"},
            **settings,
        }
        config = directory / "agent.yaml"
        config.write_text(json.dumps(document))  # JSON is YAML
        super().__init__([ISTHMUS, "agent", "--config", config], directory / "log")

    def envoy_pid(self) -> int:
        """The process of its Envoy."""
        url = f"http://127.0.0.1:{self.status_port}/status"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(json.load(answer)["envoy"]["pid"])


class Bridge(Process):
    """A bridge that reads files."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        directory.mkdir()
        self.xds_port, self.http_port = free_port(), free_port()
        services = directory / "services"
        services.mkdir()
        host, _, port = endpoint.rpartition(":")
        service = {
            "name": "echo",
            "ports": [{"name": "http", "number": 80, "protocol": "http"}],
            "instances": [{"address": host, "ports": {"http": int(port)}}],
        }
        (services / "echo.yaml").write_text(json.dumps({"services": [service]}))
        config = directory / "isthmus.yaml"
        document = {
            "registries": [{"name": "files", "type": "file", "path": "services"}],
            "xds": {"address": f"127.0.0.1:{self.xds_port}"},
            "http": {"address": f"127.0.0.1:{self.http_port}"},
            "mesh": {"outbound_port": free_port()},
            "state_dir": "state",
        }
        config.write_text(json.dumps(document))
        super().__init__([ISTHMUS, "serve", "--config", config], directory / "log")


async def listening(process: Process, port: int) -> None:
    """Wait until a process listens."""

    async def listens() -> bool:
        assert process.running, process.output()[-3000:]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True

    await eventually(listens, f"{Path(process.argv[0]).name} listens on {port}", 60)
