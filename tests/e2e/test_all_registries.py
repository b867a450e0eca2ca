"""All four platforms and a file at once: one bridge, one Envoy, and each of them lost and found again under load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import (
    Config,
    ConsulRegistry,
    EtcdRegistry,
    EurekaRegistry,
    FileRegistry,
    ListenConfig,
    MeshConfig,
    NomadRegistry,
    XdsConfig,
)
from isthmus.registry.etcd.config import Prefix
from tests.servers.consul import Consul
from tests.servers.envoy import Envoy
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.nomad import Nomad, NomadAgent, client_settings, mk_job, mk_service
from tests.servers.process import Process, free_port
from tests.servers.upstream import Load, Upstream, constant_load, get
from tests.wait import eventually

NAMES = ("consul", "eureka", "etcd", "nomad", "file")


class Five:
    """The registries, a service of the registry's name in each, and what puts it there."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.folder = directory / "services"
        self.stack = stack
        self.outbound = free_port()

    async def start(self) -> None:
        self.consul = await Consul.start_dev(self.directory / "consul")
        self.stack.callback(self.consul.stop)
        self.eureka = Eureka(self.directory / "eureka")
        self.stack.callback(self.eureka.stop)
        self.eureka.start()
        self.etcd = await Etcd.start_one(self.directory / "etcd")
        self.stack.callback(self.etcd.stop)
        # The server alone is lost: an agent that is both forgets its tasks when it is killed.
        self.nomad = Nomad(self.directory / "nomad", {"client": {"enabled": False}})
        self.stack.callback(self.nomad.stop)
        self.nomad.start()
        at_server = {"servers": [f"127.0.0.1:{self.nomad.rpc_port}"]}
        client_directory = self.directory / "nomad-client"
        client = NomadAgent(
            client_directory, {"name": "node-1", "client": client_settings(client_directory) | at_server}
        )
        self.nomad.clients.append(client)
        client.start()
        await self.nomad.ready()
        await self.eureka.ready()
        self.upstreams = {name: Upstream(name) for name in NAMES if name != "nomad"}
        for upstream in self.upstreams.values():
            await upstream.start()
            self.stack.push_async_callback(upstream.stop)
        await self.nomad.run(mk_job("nomad", mk_service("nomad", check=True)))
        self.folder.mkdir()
        await self.register("consul", "eureka", "etcd", "file")
        self.bridge = Bridge(
            Config(
                registries=(
                    ConsulRegistry(name="consul", address=self.consul.address, heartbeat=1.0),
                    EurekaRegistry(name="eureka", addresses=(self.eureka.address,), poll_interval=1.0, default_port=80),
                    EtcdRegistry(
                        name="etcd",
                        endpoints=(self.etcd.address,),
                        prefixes=(Prefix(prefix="/microservices/", layout="go-kratos"),),
                        heartbeat=1.0,
                    ),
                    NomadRegistry(name="nomad", address=self.nomad.address, heartbeat=1.0),
                    FileRegistry(name="file", path=str(self.folder)),
                ),
                mesh=MeshConfig(outbound_port=self.outbound),
                xds=XdsConfig("127.0.0.1:0"),
                http=ListenConfig("127.0.0.1:0"),
                state_dir=str(self.directory / "state"),
            )
        )
        self.stack.push_async_callback(self.bridge.stop)
        await self.bridge.start()
        self.envoy = Envoy(self.directory, self.bridge.xds_address)
        self.envoy.start()
        self.stack.callback(self.envoy.stop)
        await self.envoy.ready()

    async def register(self, *names: str) -> None:
        for name in names:
            port = self.upstreams[name].port
            match name:
                case "consul":
                    await self.consul.register("consul-svc", "one", port=port, meta={"port": "80"})
                case "eureka":
                    await self.eureka.register(
                        "eureka-svc", "one", ipAddr="127.0.0.1", port=port, metadata={"port": "80"}
                    )
                case "etcd":
                    value = {"id": "one", "name": "etcd-svc", "endpoints": [f"http://127.0.0.1:{port}"]}
                    await self.etcd.put("/microservices/etcd-svc/one", json.dumps(value))
                case _:
                    self.write(port)

    def write(self, port: int) -> None:
        instance = f"{{id: one, address: 127.0.0.1, ports: {{http: {port}}}}}"
        text = f"services: [{{name: file-svc, ports: [{{name: http, number: 80}}], instances: [{instance}]}}]"
        (self.folder / "file.yaml").write_text(text)

    def stale(self, name: str) -> bool:
        return self.bridge.hub.statuses[name].stale_since is not None

    def let_go(self, name: str) -> bool:
        return not self.held(name)

    def held(self, name: str) -> bool:
        return any(hold.instance.origin == name for hold in self.bridge.hub.holds)


@pytest.fixture
async def five(tmp_path: Path) -> AsyncIterator[Five]:
    async with AsyncExitStack() as stack:
        five = Five(tmp_path, stack)
        await five.start()
        yield five


def serving(load: Load, more_than: int = 20) -> bool:
    return load.answers.total() > more_than


async def lost_and_found(five: Five, name: str, server: Process, ready: Callable[[], Awaitable[object]]) -> None:
    server.kill()
    await eventually(partial(five.stale, name), f"{name}'s death is noticed", 30)
    server.start()
    await ready()
    await eventually(lambda: not five.stale(name), f"{name} is current again", 60)


async def test_each_is_lost_and_found_under_load(five: Five) -> None:
    """No request fails: neither to the services of the others, nor to those of the registry that is away."""
    hosts = {name: f"{name if name == 'nomad' else f'{name}-svc'}.default.mesh" for name in NAMES}
    async with AsyncExitStack() as stack:
        for host in hosts.values():
            await eventually(partial(_answers, five.outbound, host), f"{host} is served", 40)
        loads = {n: await stack.enter_async_context(constant_load(five.outbound, h, 1)) for n, h in hosts.items()}

        for name, server, ready in (
            ("consul", five.consul, five.consul.ready),
            ("eureka", five.eureka, five.eureka.ready),
            ("etcd", five.etcd, five.etcd.ready),
            ("nomad", five.nomad, five.nomad.ready),
        ):
            await lost_and_found(five, name, server, ready)
            if name in ("consul", "eureka"):
                # They have come back with nothing: their services are held until they register again.
                assert five.held(name), name
                await five.register(name)
                await eventually(partial(five.let_go, name), f"{name}'s service is held no more", 30)
            for other, load in loads.items():
                load.recent()
                await eventually(partial(serving, load), f"{other} is served after {name} was away")
        five.folder.rename(five.directory / "away")
        await eventually(partial(five.stale, "file"), "the folder is missed")
        (five.directory / "away").rename(five.folder)
        await eventually(lambda: not five.stale("file"), "the folder is back", 30)
        for load in loads.values():
            load.recent()
            await eventually(partial(serving, load), "all go on")
        assert {name: load.failures for name, load in loads.items() if load.failures} == {}


async def _answers(port: int, host: str) -> bool:
    return (await asyncio.wait_for(get(port, host), 5))[0] == 200
