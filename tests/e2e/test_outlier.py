"""An instance that crashes without a word: Eureka lists it for minutes, Envoy leaves it out after a few failed requests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, EurekaRegistry, ListenConfig, MeshConfig, XdsConfig
from isthmus.registry.drain import DrainRules
from isthmus.registry.model import OutlierDetection
from tests.servers.envoy import Envoy
from tests.servers.eureka import Eureka
from tests.servers.process import Process, free_port
from tests.servers.upstream import constant_load, get
from tests.wait import eventually

HOST = "reviews.default.mesh"
CLUSTER = f"outbound|80||{HOST}"
TASK = Path(__file__).parent.parent / "servers" / "nomad_task.py"
NAMES = ("reviews-1", "reviews-2", "reviews-3")
HANDFUL = 5
"""Failed requests that a crash may cost: three in a row, and those that were on their way."""


class Instance(Process):
    """A web server that can be killed; it answers with its name."""

    def __init__(self, directory: Path, name: str) -> None:
        self.port = free_port()
        env = {**os.environ, "NOMAD_ALLOC_ID": name, "NOMAD_PORT_http": str(self.port)}
        argv: list[str | Path] = [sys.executable, TASK, str(directory), str(os.getpid())]
        super().__init__(argv, directory / f"{name}.log", env)

    async def ready(self) -> None:
        async def answers() -> bool:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/") as answer:
                return answer.status == 200

        await eventually(answers, "the instance answers", 20)


class World:
    """Eureka with three instances, the bridge, Envoy."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.outbound = free_port()
        self.instances = {name: Instance(directory, name) for name in NAMES}

    async def start(self) -> None:
        self.eureka = Eureka(self.directory / "eureka")
        self.stack.callback(self.eureka.stop)
        self.eureka.start()
        for instance in self.instances.values():
            self.stack.callback(instance.stop)
            instance.start()
        await self.eureka.ready()
        for name, instance in self.instances.items():
            await instance.ready()
            await self.eureka.register("reviews", name, ipAddr="127.0.0.1", port=instance.port, metadata={"port": "80"})

    async def serve(self, outlier_detection: bool | OutlierDetection) -> Envoy:
        """Start the bridge and Envoy, and wait until all three answer."""
        bridge = Bridge(
            Config(
                registries=(
                    EurekaRegistry(
                        name="eureka",
                        addresses=(self.eureka.address,),
                        poll_interval=0.5,
                        outlier_detection=outlier_detection,
                    ),
                ),
                mesh=MeshConfig(outbound_port=self.outbound),
                xds=XdsConfig("127.0.0.1:0"),
                http=ListenConfig("127.0.0.1:0"),
                drain=DrainRules(grace=0),
                state_dir=str(self.directory / "state"),
            )
        )
        self.stack.push_async_callback(bridge.stop)
        await bridge.start()
        envoy = Envoy(self.directory, bridge.xds_address)
        envoy.start()
        self.stack.callback(envoy.stop)
        await envoy.ready()
        seen: set[str] = set()

        async def all_answer() -> bool:
            status, text = await get(self.outbound, HOST)
            seen.update({text} if status == 200 else ())
            return seen == set(NAMES)

        await eventually(all_answer, "all instances answer")
        return envoy


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = World(tmp_path, stack)
        await world.start()
        yield world


async def left_out(envoy: Envoy) -> list[int]:
    """Ports of the instances that Envoy has found out by itself to be bad."""
    clusters = json.loads(await envoy.admin("/clusters?format=json"))["cluster_statuses"]
    hosts = next(c["host_statuses"] for c in clusters if c["name"] == CLUSTER)
    return [
        h["address"]["socket_address"]["port_value"] for h in hosts if h["health_status"].get("failed_outlier_check")
    ]


async def test_a_killed_instance_is_left_out_until_it_is_back(world: World) -> None:
    """Eureka goes on listing it as UP all the time; when it is started again, it gets requests again."""
    envoy = await world.serve(OutlierDetection(ejection_time=0.5, interval=0.1))
    victim = world.instances["reviews-1"]
    async with constant_load(world.outbound, HOST) as load:
        victim.kill()

        async def noticed() -> bool:
            return await left_out(envoy) == [victim.port]

        await eventually(noticed, "the crash is noticed")
        load.recent()
        await eventually(lambda: load.answers.total() > 100, "the others go on")
        assert (await world.eureka.instances())["reviews-1"]["status"] == "UP"
        assert await envoy.rejected() == {}
        victim.start()
        await victim.ready()
        await eventually(lambda: load.answers["reviews-1"] > 10, "it serves again", 30)


async def test_by_default_a_crash_costs_a_handful_of_requests(world: World) -> None:
    envoy = await world.serve(True)
    victim = world.instances["reviews-1"]
    async with constant_load(world.outbound, HOST) as load:
        victim.kill()

        async def noticed() -> bool:
            return await left_out(envoy) == [victim.port]

        await eventually(noticed, "the crash is noticed")
        failed = len(load.failures)
        load.recent()
        await eventually(lambda: load.answers.total() > 300, "the others go on")
        assert (await world.eureka.instances())["reviews-1"]["status"] == "UP"
    assert failed <= HANDFUL
    assert len(load.failures) == failed


async def test_a_service_with_one_instance_is_not_taken_away(world: World) -> None:
    """To leave out the only one would make half a minute's outage of a restart."""
    envoy = await world.serve(True)
    for name in NAMES[1:]:
        await world.eureka.cancel("reviews", name)

    async def only_one() -> bool:
        return len(await envoy.endpoints(CLUSTER)) == 1

    await eventually(only_one, "the others are gone", 30)
    alone = world.instances[NAMES[0]]
    alone.kill()
    for _ in range(2 * HANDFUL):
        assert (await get(world.outbound, HOST))[0] == 503
    alone.start()
    await alone.ready()

    assert await get(world.outbound, HOST) == (200, NAMES[0])
