"""The same mesh for gRPC programs without a proxy: grpcio and gRPC for Node.js as clients, grpcio as a server."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, FileRegistry, ListenConfig, XdsConfig
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from tests.servers.grpc_greeter import Greeter
from tests.servers.grpc_programs import LANGUAGES, Caller, GrpcProgram, mk_server
from tests.servers.process import free_port
from tests.wait import eventually

TARGET = "xds:///reviews.default.mesh:9080"

Instance = dict[str, object]


class Mesh:
    """A bridge that reads one file, greeters, and programs that call them."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.folder = directory / "services"
        self.folder.mkdir()
        self.config = Config(
            registries=(FileRegistry(name="local", path=str(self.folder)),),
            xds=XdsConfig(f"127.0.0.1:{free_port()}"),
            http=ListenConfig("127.0.0.1:0"),
            guard=GuardRules(hold=0),
            drain=DrainRules(grace=0.5),
            state_dir=str(directory / "state"),
        )
        self.bridge = Bridge(self.config)

    async def start(self) -> None:
        self.stack.push_async_callback(self.bridge.stop)
        await self.bridge.start()

    async def restart(self) -> None:
        await self.bridge.stop()
        self.bridge = Bridge(self.config)
        await self.start()

    def write(self, *instances: Instance, hostnames: Sequence[str] = ("reviews.example",)) -> None:
        """Replace the service `reviews` in one step."""
        ports = [{"name": "grpc", "number": 9080}]
        service = {"name": "reviews", "ports": ports, "instances": list(instances), "hostnames": list(hostnames)}
        new = self.folder / ".new"
        new.write_text(yaml.safe_dump({"services": [service]}))
        new.rename(self.folder / "reviews.yaml")

    async def greeter(self, name: str) -> Greeter:
        greeter = Greeter(name)
        await greeter.start()
        self.stack.push_async_callback(greeter.stop)
        return greeter

    def run(self, program: GrpcProgram) -> None:
        self.stack.callback(program.stop)
        program.start()

    def caller(self, target: str = TARGET, language: str = "python", **env: str) -> Caller:
        """One that is calling already."""
        caller = Caller(self.directory, self.config.xds.address, target, language=language, env=env)
        self.run(caller)
        return caller


def at(greeter: Greeter, **more: object) -> Instance:
    """A greeter as the file has it."""
    return {"id": greeter.name, "address": "127.0.0.1", "ports": {"grpc": greeter.port}, **more}


def answered_by(caller: Caller, *names: str) -> Callable[[], bool]:
    """Whether it is these, and no other, who gave the last twenty answers from now on."""
    caller.answers()
    last: deque[str] = deque(maxlen=20)

    def answered() -> bool:
        last.extend(call.answer for call in caller.calls() if call.answer)
        return len(last) == last.maxlen and set(last) == set(names)

    return answered


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(tmp_path, stack)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_endpoints_move_under_constant_calls(mesh: Mesh, language: str) -> None:
    """Instances are added, drained, removed and replaced, each server stops once it is called no more, and no call fails.

    Rule 52.
    """
    one, two, three = [await mesh.greeter(name) for name in ("one", "two", "three")]
    mesh.write(at(one))
    await mesh.start()
    caller = mesh.caller(language=language)
    await eventually(answered_by(caller, "one"), "the first instance answers", 30)

    mesh.write(at(one), at(two))
    await eventually(answered_by(caller, "one", "two"), "an instance that was added is called")

    mesh.write(at(one, health="draining"), at(two))
    await eventually(answered_by(caller, "two"), "an instance that drains is called no more")
    await one.stop()

    mesh.write(at(two))
    mesh.write(at(two), at(three, health="unhealthy"))
    mesh.write(at(two), at(three))
    await eventually(answered_by(caller, "two", "three"), "what has become healthy is called")

    mesh.write(at(three))
    await eventually(answered_by(caller, "three"), "an instance that was removed is called no more")
    await two.stop()

    two.name = "two again"
    await two.start()
    mesh.write(at(two))
    await eventually(answered_by(caller, "two again"), "all instances were replaced")
    assert caller.failures == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_bridge_that_restarts_is_not_noticed(mesh: Mesh, language: str) -> None:
    """Calls go on while it is away, and what has changed meanwhile arrives when it is back. Rule 47."""
    one, two = [await mesh.greeter(name) for name in ("one", "two")]
    mesh.write(at(one))
    await mesh.start()
    caller = mesh.caller(language=language)
    await eventually(answered_by(caller, "one"), "the instance answers", 30)
    await mesh.bridge.stop()
    mesh.write(at(two))
    await eventually(answered_by(caller, "one"), "calls go on without a bridge")
    await mesh.restart()
    await eventually(answered_by(caller, "two"), "the client has come back", 30)
    assert caller.failures == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_calls_are_shared_by_weight(mesh: Mesh, language: str) -> None:
    """One in four, in one locality: gRPC's round robin by itself takes no notice of an instance's weight."""
    one, two = [await mesh.greeter(name) for name in ("one", "two")]
    mesh.write(at(one), at(two, weight=3))
    await mesh.start()
    caller = mesh.caller(language=language)
    await eventually(answered_by(caller, "one", "two"), "both answer", 30)
    total = caller.answers()

    def counted() -> bool:
        total.update(caller.answers())
        return total.total() > 600

    await eventually(counted, "600 calls", 30)
    assert 0.15 < total["one"] / total.total() < 0.35
    assert caller.failures == []


async def test_degraded_instances_wait_for_the_others_to_go(mesh: Mesh) -> None:
    """gRPC would leave them alone even if there is nobody else. Rule 46."""
    one, two = [await mesh.greeter(name) for name in ("one", "two")]
    mesh.write(at(one), at(two, health="degraded"))
    await mesh.start()
    caller = mesh.caller()
    await eventually(answered_by(caller, "one"), "the healthy one answers", 30)
    mesh.write(at(one, health="unhealthy"), at(two, health="degraded"))
    await eventually(answered_by(caller, "two"), "the degraded one is better than none")
    assert caller.failures == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_instance_may_have_a_host_name(mesh: Mesh, language: str) -> None:
    """One of them, which the client resolves itself; IP addresses that come take its place, for both do not go together."""
    one, two = [await mesh.greeter(name) for name in ("one", "two")]
    mesh.write(at(one) | {"address": "localhost"})
    await mesh.start()
    caller = mesh.caller("xds:///reviews.example", language)
    await eventually(answered_by(caller, "one"), "the name is resolved", 30)
    mesh.write(at(one) | {"address": "localhost"}, at(two))
    await eventually(answered_by(caller, "two"), "the address is called")
    assert caller.failures == []


async def test_a_server_that_takes_its_listener_from_the_bridge(mesh: Mesh) -> None:
    """It serves before it is registered anywhere, for most services register themselves once they serve. Rule 43."""
    await mesh.start()
    address = f"127.0.0.1:{free_port()}"
    server = mk_server(mesh.directory, mesh.config.xds.address, "one", address)
    mesh.run(server)
    direct = mesh.caller(address)
    await eventually(partial(served, direct), "the server serves", 30)
    port = int(address.rpartition(":")[2])
    mesh.write({"id": "one", "address": "127.0.0.1", "ports": {"grpc": port}})
    await eventually(lambda: mesh.bridge.published.catalog.services, "the service is known")
    caller = Caller(mesh.directory, mesh.config.xds.address, TARGET, node="through")
    mesh.run(caller)
    await eventually(answered_by(caller, "one"), "it is called through the mesh", 30)
    assert caller.failures == []


def served(caller: Caller) -> bool:
    return bool(caller.answers())


async def test_a_name_that_nobody_has_fails_at_once(mesh: Mesh) -> None:
    """With our text, instead of 15 seconds of silence, and works once somebody has it; the client has to opt in (gRFC A88).

    Rules 33 and 48.
    """
    one = await mesh.greeter("one")
    mesh.write(at(one))
    await mesh.start()
    caller = mesh.caller("xds:///late.example:9080", GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING="true")
    first = (await eventually(caller.calls, "a call has ended", 30))[0]
    assert first.seconds < 5
    assert first.failure.startswith("UNAVAILABLE")
    assert "late.example:9080" in first.failure
    assert "isthmus services" in first.failure
    mesh.write(at(one), hostnames=["late.example"])
    await eventually(answered_by(caller, "one"), "the name has come")
