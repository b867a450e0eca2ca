"""A real Nomad: one agent that is server and client, further clients, and an API of its own for what a test does to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port, own_range
from tests.wait import eventually

WEB = Path(__file__).parent / "nomad_task.py"
"""What the tasks run: a web server whose health a test can turn (`Nomad.set_healthy`)."""

_clients = itertools.count()

NO_FINGERPRINTS = "env_aws,env_azure,env_digitalocean,env_gce,consul,vault,cni,bridge"
"""What a client need not find out about its machine, some of it by asking clouds that are not there."""


def find_nomad() -> Path:
    """The `nomad` program; skips the test, or fails it with ISTHMUS_PEERS=required, when there is none."""
    return peer_binary("nomad", peers.NOMAD)


class NomadAgent(Process):
    """One agent with all its ports on loopback. What it knows is kept in its directory, and is there after a restart."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.rpc_port = free_port()
        self.serf_port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        ports = {"http": self.port, "rpc": self.rpc_port, "serf": self.serf_port}
        config = {
            "bind_addr": "127.0.0.1",
            "ports": ports,
            "advertise": dict.fromkeys(ports, "127.0.0.1"),
            "data_dir": str(directory / "data"),
            "disable_update_check": True,
            "log_level": "WARN",
            "plugin": [{"raw_exec": [{"config": [{"enabled": True}]}]}],
        }
        file = directory / "nomad.json"
        file.write_text(json.dumps(config | dict(settings)))
        # With AWS_CA_BUNDLE Nomad's client does not start: "unable to add custom RootCAs".
        env = {name: value for name, value in os.environ.items() if not name.startswith(("NOMAD_", "AWS_"))}
        super().__init__([find_nomad(), "agent", f"-config={file}"], directory / "nomad.log", env=env)

    def stop(self, grace: float = 5) -> int | None:
        """End it and the tasks that it has started: Nomad itself leaves them alone when it ends."""
        status = super().stop(grace)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                named = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                # Its log collectors know the place by the files that they have open alone.
                opened = (str(descriptor.readlink()) for descriptor in (process / "fd").iterdir())
                place = f"{self.directory}/allocs/"
                if place.encode() in named or any(path.startswith(place) for path in opened):
                    os.kill(int(process.name), signal.SIGKILL)
        # What it leaves mounted nobody could remove.
        _unmount(self.directory)
        return status


def _unmount(directory: Path) -> None:
    below = f"{directory.resolve()}/"
    for line in Path("/proc/mounts").read_text().splitlines():
        path = line.split(" ")[1]
        if path.startswith(below):
            subprocess.run(["umount", path], check=False, capture_output=True)


class Nomad(NomadAgent):
    """A cluster of one server, which is a client as well."""

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.token = ""
        self.clients: list[NomadAgent] = []
        super().__init__(
            directory,
            {
                "name": "node-0",
                "server": {
                    "enabled": True,
                    "bootstrap_expect": 1,
                    "heartbeat_grace": "1s",
                    "event_buffer_size": 10_000,
                },
                "client": client_settings(directory),
            }
            | dict(settings or {}),
        )

    @classmethod
    async def start_one(cls, directory: Path, settings: Mapping[str, Any] | None = None) -> Nomad:
        """Start one and wait until it can run jobs."""
        nomad = cls(directory, settings)
        nomad.start()
        await nomad.ready()
        return nomad

    @classmethod
    async def start_with_acls(cls, directory: Path) -> Nomad:
        """Start one that refuses whoever has no token; `token` is its management token."""
        nomad = cls(directory, {"acl": {"enabled": True}})
        nomad.start()

        async def bootstrap() -> bool:
            answer = await nomad.put("/v1/acl/bootstrap")
            nomad.token = answer["SecretID"]
            return True

        await eventually(bootstrap, "Nomad has a leader", timeout=60, every=0.2)
        await nomad.ready()
        return nomad

    async def ready(self, nodes: int = 1) -> None:
        """Wait until it has a leader and as many clients that run jobs."""

        async def registered() -> bool:
            if not self.running:
                raise RuntimeError(f"Nomad has ended:\n{self.output()[-3000:]}")
            return [n["Status"] for n in await self.get("/v1/nodes")].count("ready") >= nodes

        try:
            await eventually(registered, f"Nomad has {nodes} nodes", timeout=60, every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.output()[-3000:]}") from e

    async def add_client(self, directory: Path, name: str, meta: Mapping[str, str] | None = None) -> NomadAgent:
        """Start an agent that is a client only, and wait until it can run jobs."""
        settings = client_settings(directory) | {"servers": [f"127.0.0.1:{self.rpc_port}"], "meta": dict(meta or {})}
        client = NomadAgent(directory, {"name": name, "client": settings})
        self.clients.append(client)
        client.start()
        await self.ready(len(self.clients) + 1)
        return client

    def stop(self, grace: float = 5) -> int | None:
        """End the agents and what they run."""
        for client in self.clients:
            client.stop(grace)
        return super().stop(grace)

    # Jobs.

    async def run(self, job: Mapping[str, Any]) -> None:
        """Register a job, or its next version (`mk_job`)."""
        await self.put("/v1/jobs", {"Job": job})

    async def scale(self, job: str, group: str, count: int) -> None:
        """Set the number of instances, once no deployment stands against it."""

        async def scaled() -> bool:
            return bool(await self.put(f"/v1/job/{job}/scale", {"Count": count, "Target": {"Group": group}}))

        await eventually(scaled, f"{job} can be scaled", timeout=30, every=0.1)

    async def stop_job(self, job: str, namespace: str = "default") -> None:
        """Stop a job and forget it."""
        await self.request("DELETE", f"/v1/job/{quote(job, safe='')}?purge=true&namespace={namespace}")

    async def wipe(self) -> None:
        """Stop and forget all jobs, wait until nothing of them runs, and make every node eligible again."""
        for job in await self.get("/v1/jobs?namespace=*"):
            await self.stop_job(job["ID"], job["Namespace"])
        for listed in await self.get("/v1/services?namespace=*"):
            for service in listed["Services"]:
                path = f"/v1/service/{quote(service['ServiceName'], safe='')}?namespace={listed['Namespace']}"
                for registration in await self.get(path):
                    if registration["JobID"].startswith("job-of-"):
                        await self.deregister(listed["Namespace"], registration["ID"])

        async def over() -> bool:
            running = [a for a in await self.get("/v1/allocations?namespace=*") if a["ClientStatus"] == "running"]
            return not running and not await self.get("/v1/services?namespace=*")

        await eventually(over, "all tasks have ended", timeout=30, every=0.1)

    async def allocations(self, job: str = "", *, running: bool = True) -> list[Any]:
        """The allocations of a job, or of all."""
        return [
            a
            for a in await self.get("/v1/allocations?namespace=*")
            if (not job or a["JobID"] == job) and (not running or a["ClientStatus"] == "running")
        ]

    # Registrations, as the agent that runs a task makes them.

    async def register(self, namespace: str, service: str, id_: str, address: str, port: int, **more: Any) -> None:
        """Register an instance that no task stands behind."""
        registration = {
            "ID": id_,
            "ServiceName": service,
            "Namespace": namespace,
            "NodeID": self._node("client-id"),
            "Datacenter": "dc1",
            "JobID": f"job-of-{service}",
            "AllocID": str(uuid.uuid5(uuid.NAMESPACE_OID, id_)),
            "Tags": [],
            "Address": address,
            "Port": port,
        } | more
        await self._rpc("ServiceRegistration.Upsert", {"Services": [registration]}, namespace)

    async def deregister(self, namespace: str, id_: str) -> None:
        """Take an instance away."""
        await self._rpc("ServiceRegistration.DeleteByID", {"ID": id_}, namespace)

    async def _rpc(self, method: str, body: Mapping[str, Any], namespace: str) -> None:
        """One call as its own client makes it: a byte for the protocol, then header and body in MessagePack.

        Raises:
            ValueError: it refused.

        """
        header = {"ServiceMethod": method, "Seq": 1}
        request = dict(body) | {"Region": "global", "Namespace": namespace, "AuthToken": self._node("secret-id")}
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rpc_port)
        try:
            writer.write(b"\x01" + msgspec.msgpack.encode(header) + msgspec.msgpack.encode(request))
            async with asyncio.timeout(10):
                answer = b""
                while b"Error" not in answer or answer.endswith(b"Error"):
                    if not (chunk := await reader.read(65536)):
                        raise ValueError(f"{method}: the connection was closed")
                    answer += chunk
        finally:
            writer.close()
        if b"Error\xa0" not in answer:  # the key, and an empty string
            raise ValueError(f"{method}: {answer!r}")

    def _node(self, file: str) -> str:
        return (self.directory / "state" / file).read_text()

    async def get(self, path: str) -> Any:
        """A GET of its API, decoded."""
        return json.loads(await self.request("GET", path))

    async def put(self, path: str, body: Any = None) -> Any:
        """A PUT of its API; the answer decoded, None when it is empty."""
        answer = await self.request("PUT", path, None if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer.strip() else None

    async def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request.

        Raises:
            OSError: it does not listen.
            ValueError: it refused; with its reason.

        """
        headers = {"X-Nomad-Token": self.token} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.request(method, self.address + path, data=body) as response,
        ):
            answer = await response.read()
            if response.status != 200:
                raise ValueError(f"{method} {path}: {response.status} {answer[:600]!r}")
            return answer


def client_settings(directory: Path) -> dict[str, Any]:
    """What makes an agent a client. All are on one host, which each believes it has to itself: each gives out other ports."""
    mine = own_range(20_000, 32_000)
    first = mine[next(_clients) * 500 % len(mine)]
    return {
        "enabled": True,
        "min_dynamic_port": first,
        "max_dynamic_port": first + 499,
        "network_interface": "lo",
        "state_dir": str(directory / "state"),
        "alloc_dir": str(directory / "allocs"),
        "options": {"fingerprint.denylist": NO_FINGERPRINTS},
    }


def mk_service(name: str, port: str = "http", *, check: bool = False, tags: Sequence[str] = (), **more: Any) -> Any:
    """A native service; with `check` it asks for /health each second."""
    service: dict[str, Any] = {"Name": name, "PortLabel": port, "Provider": "nomad", "Tags": list(tags)}
    if check:
        service["Checks"] = [
            {"Name": "alive", "Type": "http", "Path": "/health", "Interval": 1_000_000_000, "Timeout": 1_000_000_000}
        ]
    return service | more


DEPLOYMENT = {
    "MaxParallel": 1,
    "MinHealthyTime": 200_000_000,
    "HealthyDeadline": 30_000_000_000,
    "ProgressDeadline": 60_000_000_000,
    "HealthCheck": "checks",
}
"""How the next version of a job takes the place of the one before: quickly."""


def mk_job(
    name: str,
    *services: Any,
    count: int = 1,
    state: Path | None = None,
    shutdown_delay: float = 0,
    update: Mapping[str, Any] = DEPLOYMENT,
    namespace: str = "default",
    env: Mapping[str, str] | None = None,
    group: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A job with one group `web` of web servers, each on a port that Nomad chooses."""
    task = {
        "Name": "server",
        "Driver": "raw_exec",
        "Config": {"command": sys.executable, "args": [str(WEB), str(state or "/nonexistent"), str(os.getpid())]},
        "Env": dict(env or {}),
        "Resources": {"CPU": 20, "MemoryMB": 32},
        "KillTimeout": 1_000_000_000,
        "LogConfig": {"Disabled": True, "MaxFiles": 1, "MaxFileSizeMB": 1},
    }
    web = {
        "Name": "web",
        "Count": count,
        "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
        "Services": list(services),
        "Tasks": [task],
        "ShutdownDelay": int(shutdown_delay * 1e9),
        "RestartPolicy": {"Attempts": 3, "Interval": 60_000_000_000, "Delay": 100_000_000, "Mode": "delay"},
        "Update": dict(update),
        "EphemeralDisk": {"SizeMB": 10},
    } | dict(group or {})
    return {
        "ID": name,
        "Name": name,
        "Namespace": namespace,
        "Type": "service",
        "Datacenters": ["*"],
        "TaskGroups": [web],
    } | more
