"""A real Consul: one agent in development mode, with an API of its own for what a test does to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests import peers
from tests.servers.netns import Machine
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

MANAGEMENT_TOKEN = "3d1b2ad6-2f5e-4f5f-9a1c-6c6f1e0d4a11"  # noqa: S105 - of a server that lives for one test

NODE = "agent"
"""The agent's own node. It takes back what others register there, so `catalog_register` needs another one."""


def find_consul() -> Path:
    """The `consul` program; skips the test, or fails it with ISTHMUS_PEERS=required, when there is none."""
    return peer_binary("consul", peers.CONSUL)


class Consul(Process):
    """An agent with all its ports on loopback, or on another machine. What it knows is lost when it ends."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any] | None = None,
        token: str = "",
        machine: Machine | None = None,
    ) -> None:
        self.port = free_port()
        self._machine = machine
        host = machine.address if machine else "127.0.0.1"
        self.address = f"http://{host}:{self.port}"
        self.token = token
        directory.mkdir(parents=True, exist_ok=True)
        settings = dict(settings or {})
        ports = {"dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1, "http": self.port}
        ports |= {name: free_port() for name in ("serf_lan", "serf_wan", "server")} | settings.pop("ports", {})
        config = {"node_name": NODE, "ports": ports, "check_update_interval": "0s", "disable_update_check": True}
        file = directory / "consul.json"
        file.write_text(json.dumps(config | settings))
        argv = [str(find_consul()), "agent", "-dev", f"-bind={host}", f"-client={host}", "-log-level=warn"]
        argv = machine.command(*argv) if machine else argv
        super().__init__([*argv, f"-config-file={file}"], directory / "consul.log", env={"HOME": str(directory)})

    @classmethod
    async def start_dev(
        cls, directory: Path, settings: Mapping[str, Any] | None = None, machine: Machine | None = None
    ) -> Consul:
        """Start one and wait until it answers."""
        consul = cls(directory, settings, machine=machine)
        consul.start()
        await consul.ready()
        return consul

    @classmethod
    async def start_with_acls(cls, directory: Path) -> Consul:
        """Start one that denies by default; `token` is its management token."""
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": MANAGEMENT_TOKEN}}
        consul = cls(directory, {"acl": acl}, MANAGEMENT_TOKEN)
        consul.start()
        await consul.ready()
        return consul

    @classmethod
    async def start_two(cls, directory: Path) -> tuple[Consul, Consul]:
        """Start two in datacenters dc1 and dc2, of which the second joins the first, and each of which can peer."""
        wan = free_port()
        both = []
        for name, wan_port in (("dc1", wan), ("dc2", free_port())):
            settings = {"datacenter": name, "node_name": f"{NODE}-{name}", "retry_join_wan": [f"127.0.0.1:{wan}"]}
            consul = cls(directory / name, settings | {"ports": {"serf_wan": wan_port, "grpc_tls": free_port()}})
            consul.start()
            await consul.ready()
            both.append(consul)
        return both[0], both[1]

    async def ready(self) -> None:
        """Wait until it has elected itself and registered itself."""

        async def registered() -> bool:
            return bool(await self.get("/v1/health/service/consul"))

        try:
            await eventually(registered, "Consul has registered itself", timeout=30)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.output()[-3000:]}") from e

    async def register(
        self,
        service: str,
        id_: str = "",
        *,
        address: str = "127.0.0.1",
        port: int = 8080,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weights: tuple[int, int] = (1, 1),
        ttl_status: str = "",
        **more: Any,
    ) -> None:
        """Register an instance with the agent; with `ttl_status` it gets a check of that first status (`set_check`)."""
        body: dict[str, Any] = {
            "ID": id_ or service,
            "Name": service,
            "Address": address,
            "Port": port,
            "Tags": list(tags),
            "Meta": dict(meta or {}),
            "Weights": {"Passing": weights[0], "Warning": weights[1]},
        } | more
        if ttl_status:
            body["Check"] = {"CheckID": f"ttl:{id_ or service}", "TTL": "1h", "Status": ttl_status}
        await self.put("/v1/agent/service/register?replace-existing-checks=true", body)

    async def deregister(self, id_: str) -> None:
        """Take an instance of this agent away."""
        await self.put(f"/v1/agent/service/deregister/{id_}")

    async def set_check(self, id_: str, status: str) -> None:
        """Set the check of an instance registered with `ttl_status`: passing, warning or critical."""
        await self.put(f"/v1/agent/check/update/ttl:{id_}", {"Status": status})

    async def maintenance(self, id_: str, on: bool) -> None:
        """Put one instance into maintenance, or take it out."""
        await self.put(f"/v1/agent/service/maintenance/{id_}?enable={str(on).lower()}")

    async def node_maintenance(self, on: bool) -> None:
        """Put the whole node into maintenance, or take it out."""
        await self.put(f"/v1/agent/maintenance?enable={str(on).lower()}")

    async def catalog_register(self, node: str, service: str, id_: str = "", **more: Any) -> None:
        """Register an instance on a node that has no agent: fast, and for many nodes."""
        entry = {"ID": id_ or service, "Service": service, "Port": 8080} | more
        await self.put("/v1/catalog/register", {"Node": node, "Address": "127.0.0.1", "Service": entry})

    async def catalog_deregister(self, node: str, id_: str = "") -> None:
        """Take such an instance away, or without an id the node with all it has."""
        body = {"Node": node} | ({"ServiceID": id_} if id_ else {})
        await self.put("/v1/catalog/deregister", body)

    async def wipe(self) -> None:
        """Take away everything but Consul itself, and end maintenance."""
        await self.node_maintenance(False)
        for id_ in await self.get("/v1/agent/services"):
            await self.deregister(id_)
        for node in await self.get("/v1/catalog/nodes"):
            if not node["Node"].startswith(NODE):
                await self.catalog_deregister(node["Node"])

    async def get(self, path: str) -> Any:
        """A GET of its API, decoded."""
        return json.loads(await self.request("GET", path))

    async def put(self, path: str, body: Any = None) -> Any:
        """A PUT of its API; the answer decoded, None when it is empty."""
        answer = await self.request("PUT", path, None if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer.strip() else None

    async def post(self, path: str, body: Any) -> bytes:
        """A POST of its API."""
        return await self.request("POST", path, json.dumps(body).encode())

    async def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request.

        Raises:
            OSError: it does not listen.
            ValueError: it refused; with its reason.

        """
        headers = {"X-Consul-Token": self.token} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=10)
        connector = aiohttp.TCPConnector(socket_factory=self._machine.socket if self._machine else None)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session,
            session.request(method, self.address + path, data=body) as response,
        ):
            answer = await response.read()
            if response.status != 200:
                raise ValueError(f"{method} {path}: {response.status} {answer[:300]!r}")
            return answer
