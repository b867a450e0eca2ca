"""A real Consul cluster: servers that elect a leader among themselves and keep what they know, and agents that ask them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.consul import Consul, find_consul
from tests.servers.process import free_port
from tests.wait import eventually

QUICK_GOSSIP = {"gossip_interval": "50ms", "probe_interval": "200ms", "probe_timeout": "100ms"}


class Member(Consul):
    """One agent of a cluster, a server or a client of those. What a server knows outlives a restart."""

    def __init__(self, directory: Path, name: str, servers: int, join: Sequence[int]) -> None:
        """`servers` is how many there are to be; 0 makes a client. `join` are the gossip ports of others."""
        super().__init__(directory)
        self.name = name
        self.serf_port = free_port()
        self._file = directory / "member.json"
        self._config: dict[str, Any] = {
            "node_name": name,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": str(directory / "data"),
            "log_level": "warn",
            "check_update_interval": "0s",
            "disable_update_check": True,
            # A server that knows no leader says so within a second.
            "performance": {"raft_multiplier": 1, "rpc_hold_timeout": "1s"},
            "gossip_lan": QUICK_GOSSIP,
            "ports": dict.fromkeys(("dns", "grpc", "grpc_tls", "https", "serf_wan"), -1)
            | {"http": self.port, "serf_lan": self.serf_port, "server": free_port()},
            "retry_join": [f"127.0.0.1:{port}" for port in join],
            "retry_interval": "1s",
        }
        if servers:
            self._config |= {"server": True, "bootstrap_expect": servers, "connect": {"enabled": False}}
        self._write()
        self.argv = [str(find_consul()), "agent", f"-config-file={self._file}"]

    async def reload(self, settings: Mapping[str, Any]) -> None:
        """Take over other settings, of those that need no restart."""
        self._config |= settings
        self._write()
        await self.put("/v1/agent/reload")

    async def is_leader(self) -> bool:
        """Whether it takes itself for the leader."""
        return bool((await self.get("/v1/agent/self"))["Stats"]["consul"]["leader"] == "true")

    def _write(self) -> None:
        self._file.write_text(json.dumps(self._config))


class ConsulCluster:
    """Servers of one datacenter, and what happens to them."""

    def __init__(self, directory: Path, size: int = 3) -> None:
        self.servers: list[Member] = []
        self.agents: list[Member] = []
        self._directory = directory
        for n in range(1, size + 1):
            self.servers.append(Member(directory / f"s{n}", f"s{n}", size, self._gossip))

    @classmethod
    async def start(cls, directory: Path, size: int = 3) -> ConsulCluster:
        """Start it and wait until every server knows the leader."""
        cluster = cls(directory, size)
        for server in cluster.servers:
            server.start()
        try:
            await cluster.ready()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    async def add_agent(self, name: str) -> Member:
        """Start an agent that is no server, and wait until it knows those."""
        agent = Member(self._directory / name, name, 0, self._gossip)
        self.agents.append(agent)
        agent.start()
        await agent.ready()
        return agent

    def stop(self) -> None:
        """End all of it."""
        for member in (*self.agents, *self.servers):
            member.stop(grace=0)

    async def ready(self) -> None:
        """Wait until every server answers reads that need a leader, and all servers are registered."""

        async def registered() -> bool:
            seen = [len(await s.get("/v1/health/service/consul")) for s in self.servers]
            return seen == [len(self.servers)] * len(self.servers)

        try:
            await eventually(registered, "the servers have a leader", timeout=60, every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.servers[0].output()[-3000:]}") from e

    async def leader(self) -> Member:
        """The server that leads, once there is one."""

        async def leading() -> list[Member]:
            running = [s for s in self.servers if s.running]
            leads = await asyncio.gather(*(s.is_leader() for s in running))
            return [s for s, yes in zip(running, leads, strict=True) if yes]

        (leader,) = await eventually(leading, "there is a leader", timeout=60, every=0.1)
        return leader

    async def followers(self) -> list[Member]:
        """The other servers."""
        leader = await self.leader()
        return [s for s in self.servers if s is not leader]

    @property
    def _gossip(self) -> list[int]:
        return [server.serf_port for server in self.servers]
