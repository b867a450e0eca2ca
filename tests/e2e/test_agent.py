"""Machines that join the mesh with an agent: real Envoys, a real Consul, a bridge, and a network between them."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from tests.servers.agent import AgentProcess
from tests.servers.bridge import BridgeProcess
from tests.servers.consul import Consul
from tests.servers.netns import Machine, network
from tests.servers.upstream import Upstream, constant_load, get
from tests.wait import eventually

OUTBOUND = 15001


class Town:
    """A hub with Consul and the bridge, and two machines, each with an application and an agent for it."""

    def __init__(self, directory: Path, machines: tuple[Machine, ...], stack: AsyncExitStack) -> None:
        self.directory = directory
        self.hub, self.one, self.two = machines
        self.agents: dict[str, AgentProcess] = {}
        self.applications: dict[str, Upstream] = {}
        self.stack = stack
        self.consul: Consul
        self.bridge: BridgeProcess

    async def start(self) -> None:
        self.consul = await Consul.start_dev(self.directory / "consul", machine=self.hub)
        self.stack.callback(self.consul.stop)
        registry = {"name": "consul", "type": "consul", "address": self.consul.address, "heartbeat": 1.0}
        self.bridge = BridgeProcess(self.directory / "bridge", [registry], OUTBOUND, self.hub)
        self.bridge.start()
        self.stack.callback(self.bridge.stop)
        await self.bridge.ready()

    async def join(self, machine: Machine, service: str, *, ready: bool = True, **settings: Any) -> AgentProcess:
        """Start an application that answers with the machine's name, and an agent that makes a service of it."""
        if machine.name not in self.applications:
            application = Upstream(machine.name, 9081, machine)
            await application.start()
            self.stack.push_async_callback(application.stop)
            self.applications[machine.name] = application
        port = {"name": "http", "port": 9080, "target": "127.0.0.1:9081"}
        written = {
            "discoveryAddress": self.bridge.xds,
            "services": [{"name": service, "ports": [port]}],
            "registration": {"type": "consul", "address": self.consul.address},
            "drainDuration": "1s",
            "parentShutdownDuration": "2s",
        } | settings
        agent = AgentProcess(self.directory / machine.name, written, machine)
        agent.start()
        self.stack.callback(agent.close)
        self.agents[machine.name] = agent
        if ready:
            await agent.ready()
        return agent

    async def call(self, machine: Machine, host: str) -> tuple[int, str]:
        return await get(OUTBOUND, host, machine=machine)

    async def reaches(self, machine: Machine, host: str, who: str) -> None:
        """Wait until a call from a machine is answered by another one."""

        async def answered() -> bool:
            return await self.call(machine, host) == (200, who)

        await eventually(answered, f"{host} from {machine.name} reaches {who}", 20)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """Consul and the bridge run; a test has the machines join."""
    with network("hub", "one", "two") as machines:
        async with AsyncExitStack() as stack:
            town = Town(tmp_path, machines, stack)
            await town.start()
            yield town


async def test_two_machines_call_each_other_through_their_proxies(town: Town) -> None:
    """Each is registered at its proxy's address, and healthy; nothing but the proxies listens to the outside."""
    await town.join(town.one, "productpage")
    await town.join(town.two, "reviews", outbound={"mode": "EXPLICIT", "listen": f"127.0.0.1:{OUTBOUND}"})

    await town.reaches(town.one, "reviews", "two")
    await town.reaches(town.two, "productpage.service.consul:9080", "one")

    (entry,) = await town.consul.get("/v1/health/service/reviews?passing")
    assert (entry["Service"]["Address"], entry["Service"]["Port"]) == (town.two.address, 9080)
    assert {s.healthy for s in (await town.agents["two"].status()).services} == {True}


async def test_weights_are_shares_and_a_failing_probe_ends_them(town: Town) -> None:
    """One machine has three times the weight of the other, until its application is gone."""
    for machine, weight in ((town.one, 1), (town.two, 3)):
        port = {"name": "http", "port": 9080, "target": "127.0.0.1:9081"}
        probe = {"tcpSocket": {"port": 9081}, "periodSeconds": 0.2, "failureThreshold": 1}
        await town.join(
            machine, "reviews", services=[{"name": "reviews", "weight": weight, "ports": [port], "probe": probe}]
        )
    for who in ("one", "two"):
        await town.reaches(town.one, "reviews", who)

    answers = [(await town.call(town.one, "reviews"))[1] for _ in range(200)]
    assert 0.15 <= answers.count("one") / len(answers) <= 0.35

    await town.applications["two"].stop()

    async def left_alone() -> bool:
        return {(await town.call(town.one, "reviews"))[1] for _ in range(20)} == {"one"}

    await eventually(left_alone, "calls go to the other one alone")


async def test_a_service_is_called_by_its_name_and_port(town: Town) -> None:
    """Without interception: names are answered with an address at which the caller's own proxy listens."""
    await town.join(town.two, "reviews")
    caller = await town.join(
        town.one, "productpage", outbound={"mode": "ADDRESSES"}, dns={"listen": ["127.0.0.1:15053"], "upstream": []}
    )

    async def answered() -> bool:
        address = await asyncio.to_thread(resolve, town.one, "reviews")
        return await get(9080, "reviews:9080", address, machine=town.one) == (200, "two")

    await eventually(answered, "http://reviews:9080 is answered by the other machine", 20)
    assert (await caller.status()).dns


def resolve(machine: Machine, name: str) -> str:
    """The address that the agent's DNS of a machine has for a name."""
    query = dns.message.make_query(name, "A")
    with machine.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        answer = dns.query.udp(query, "127.0.0.1", port=15053, timeout=2, sock=s)
    return str(next(iter(answer.answer[0])))


async def test_a_killed_agent_leaves_envoy_serving_and_the_next_one_takes_it_over(town: Town) -> None:
    """SIGKILL in the caller's and in the server's machine, under load: no request fails, and it is the same Envoy afterwards."""
    caller = await town.join(town.one, "productpage")
    server = await town.join(town.two, "reviews")
    await town.reaches(town.one, "reviews", "two")
    envoys = caller.envoys() + server.envoys()

    async with constant_load(OUTBOUND, "reviews", machine=town.one) as load:
        for agent in (caller, server):
            agent.kill()
        await eventually(lambda: load.recent()["two"] > 20, "Envoys go on alone", every=0.3)
        for agent in (caller, server):
            agent.start()
            await agent.ready()
        await eventually(lambda: load.recent()["two"] > 20, "and with their agents", every=0.3)
    assert load.failures == []
    assert caller.envoys() + server.envoys() == envoys
    assert "envoy.adopted" in caller.output()


async def test_a_changed_bootstrap_is_a_hot_restart_without_a_failed_request(town: Town) -> None:
    """At the caller's and the server's machine; the next agent after one that is killed finds the next epoch."""
    caller = await town.join(town.one, "productpage")
    server = await town.join(town.two, "reviews")
    await town.reaches(town.one, "reviews", "two")
    (before,) = server.envoys()
    service = server.settings["services"][0]
    further = {"name": "tcp-more", "port": 9090, "target": "127.0.0.1:9081"}

    async with constant_load(OUTBOUND, "reviews", machine=town.one) as load:
        server.write(services=[service | {"ports": [*service["ports"], further]}])
        caller.write(locality="eu/eu-1")

        async def restarted() -> bool:
            return [(await agent.status()).envoy.epoch for agent in (caller, server)] == [1, 1]

        await eventually(restarted, "the next epochs run", 20)
        server.kill()
        server.start()
        await server.ready()
        await eventually(lambda: before not in server.envoys(), "the one before has ended", 20)
        assert (await server.status()).envoy.epoch == 1
        await eventually(lambda: load.recent()["two"] > 20, "requests go on", every=0.3)
    assert load.failures == []
    assert (await get(9090, "any", town.two.address, machine=town.one))[1] == "two"


async def test_without_the_bridge_everything_goes_on(town: Town) -> None:
    """Calls go on; an agent that is restarted meanwhile changes nothing; a change of the bootstrap waits for the bridge."""
    await town.join(town.one, "productpage")
    server = await town.join(town.two, "reviews")
    await town.reaches(town.one, "reviews", "two")

    async with constant_load(OUTBOUND, "reviews", machine=town.one) as load:
        town.bridge.kill()
        server.kill()
        server.start()
        await server.ready()
        service = server.settings["services"][0]
        server.write(services=[service | {"ports": [*service["ports"], {"name": "tcp", "port": 9090}]}])
        await eventually(lambda: "envoy.restart_deferred" in server.output(), "the change waits", 20)
        await eventually(lambda: load.recent()["two"] > 20, "requests go on", every=0.3)
        town.bridge.start()
        await town.bridge.ready()

        async def restarted() -> bool:
            return (await server.status()).envoy.epoch == 1

        await eventually(restarted, "and is made when it is back", 30)
    assert load.failures == []


async def test_a_start_without_the_bridge_serves_inbound(town: Town) -> None:
    """After the bounded wait; it is not ready, and says what is missing; its service is healthy in the registry."""
    town.bridge.kill()
    agent = await town.join(town.two, "reviews", ready=False)

    async def said() -> bool:
        return "has not told this Envoy anything yet" in (await agent.request("/healthz/ready"))[1]

    await eventually(said, "it waits for the bridge no more", 25)
    assert await get(9080, "reviews", town.two.address, machine=town.one) == (200, "two")

    async def healthy() -> bool:
        return [e["Service"]["ID"] for e in await town.consul.get("/v1/health/service/reviews?passing")] == [
            "reviews-two"
        ]

    await eventually(healthy, "it is healthy in the registry")

    town.bridge.start()
    await town.bridge.ready()
    await town.agents["two"].ready()
    await town.reaches(town.two, "reviews", "two")


async def test_sigterm_drains_first_and_fails_no_request(town: Town) -> None:
    """Two instances, one leaves under load: callers are asked away, it is deregistered, and Envoy ends with its agent."""
    await town.join(town.one, "reviews")
    leaving = await town.join(town.two, "reviews", terminationDrainDuration="3s")

    async with constant_load(OUTBOUND, "reviews", machine=town.one, streams=4) as load:
        await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve", 20)
        leaving.send_signal(signal.SIGTERM)
        await eventually(lambda: not leaving.running, "the agent has ended", 20)
        load.recent()
        await eventually(lambda: load.answers["one"] > 50, "the other one goes on")
        assert load.answers["two"] == 0
    assert load.failures == []
    assert leaving.envoys() == []
    assert len(await town.consul.get("/v1/health/service/reviews")) == 1
    assert town.two.processes() == [town.two.pid]
