"""A real Nomad cluster: servers that elect a leader among themselves, and one client that runs the jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.servers.nomad import Nomad, NomadAgent, client_settings
from tests.wait import eventually


class NomadCluster:
    """Three servers and a client, and what happens to them."""

    def __init__(self, directory: Path, size: int = 3) -> None:
        self.servers: list[Nomad] = []
        for n in range(size):
            server = {
                "enabled": True,
                "bootstrap_expect": size,
                "raft_multiplier": 1,
                "heartbeat_grace": "1s",
                "event_buffer_size": 10_000,
                "server_join": {
                    "retry_join": [f"127.0.0.1:{s.serf_port}" for s in self.servers],
                    "retry_interval": "1s",
                },
            }
            settings = {"name": f"server-{n}", "server": server, "client": {"enabled": False}}
            self.servers.append(Nomad(directory / f"server-{n}", settings))
        at = {"servers": [f"127.0.0.1:{s.rpc_port}" for s in self.servers]}
        client = client_settings(directory / "client") | at
        self.client = NomadAgent(directory / "client", {"name": "client", "client": client})

    @classmethod
    async def start(cls, directory: Path) -> NomadCluster:
        """Start it and wait until it can run jobs."""
        cluster = cls(directory)
        for agent in (*cluster.servers, cluster.client):
            agent.start()
        try:
            await cluster.ready()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        """End all of it, and what it runs."""
        for agent in (self.client, *self.servers):
            agent.stop(grace=1)

    async def ready(self) -> None:
        """Wait until every server knows the leader and the client."""
        await asyncio.gather(*(server.ready() for server in self.servers))

    async def leader(self) -> Nomad:
        """The server that leads, once there is one."""

        async def leading() -> list[Nomad]:
            for server in self.servers:
                if server.running and (address := await server.get("/v1/status/leader")):
                    port = int(address.rpartition(":")[2])
                    return [s for s in self.servers if s.rpc_port == port and s.running]
            return []

        (leader,) = await eventually(leading, "there is a leader", timeout=60, every=0.1)
        return leader

    async def followers(self) -> list[Nomad]:
        """The other servers."""
        leader = await self.leader()
        return [s for s in self.servers if s is not leader]
