"""What registering does in every registry (`isthmus.agent.registration`), as the bridge's own adapter for it reads it back.

A registry joins with a World and a subclass, as adapters do in adapter_contract.py.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.agent.registration import Registered, Registrar, Registration, to_registrar
from isthmus.registry.adapter import Adapter
from isthmus.registry.model import Health, Instance, Locality, Port, Protocol
from tests.contract.adapter_contract import Following, following
from tests.wait import eventually


class World(abc.ABC):
    """A real registry, empty at first, and what can happen to it."""

    gone_within: float = 10
    """Seconds after which an agent that was killed is surely no more believed."""
    draining: Health | None = Health.DRAINING
    """What a draining instance is read as; None where it is no more there."""

    @property
    @abc.abstractmethod
    def config(self) -> Registration:
        """Where to register, with times as short as they can be."""

    @abc.abstractmethod
    def make_adapter(self) -> Adapter:
        """An adapter that reads this registry."""

    @abc.abstractmethod
    async def forget(self) -> None:
        """Take everything that is registered away."""

    @abc.abstractmethod
    def freeze(self) -> contextlib.AbstractContextManager[None]:
        """Have it answer nothing meanwhile."""

    @abc.abstractmethod
    async def register_by_hand(self, service: str, id_: str) -> None:
        """Register an instance as somebody does who is no agent."""


def mk_registered(service: str = "reviews", id_: str = "reviews-vm-1", **more: Any) -> Registered:
    """A service with two ports of one protocol, which no registry has a place for, and one of another."""
    said: dict[str, Any] = {
        "id": id_,
        "service": service,
        "namespace": "default",
        "address": "10.0.0.5",
        "ports": {"web": 19080, "admin": 9081, "rpc": 9090},
        "protocols": {"web": Protocol.HTTP, "admin": Protocol.HTTP, "rpc": Protocol.GRPC},
        "numbers": {"web": 9080},
        "weight": 7,
        "labels": {"version": "v1", "example.com/team": "blue"},
        "locality": Locality("eu", "eu-1", "rack7"),
    }
    return Registered(**said | more)


class Agent:
    """One agent's registrations under way; `kill` is what SIGKILL does to them."""

    def __init__(self, registrar: Registrar) -> None:
        self.registrar = registrar
        self._task = asyncio.create_task(registrar.run())

    async def kill(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ended(self) -> bool:
        return self._task.done()


@contextlib.asynccontextmanager
async def agent(config: Registration, state_dir: Path, *services: Registered) -> AsyncGenerator[Agent]:
    """An agent that has just been started, with one service unless they are named."""
    running = Agent(to_registrar(config, services or (mk_registered(),), "vm-1", state_dir))
    try:
        yield running
    finally:
        await running.kill()


def only(seen: Following, service: str = "reviews") -> Instance | None:
    """The only instance of the service, if it is there."""
    found = seen.service(service)
    if found is None or not found.instances:
        return None
    (instance,) = found.instances
    return instance


def health(seen: Following, service: str = "reviews") -> Health | None:
    instance = only(seen, service)
    return instance.health if instance else None


@contextlib.asynccontextmanager
async def reading(world: World) -> AsyncGenerator[Following]:
    """The bridge's adapter under way, after its first snapshot."""
    async with following(world.make_adapter()) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot", timeout=30)
        yield seen


class RegistrationContract:
    """The suite. Subclasses give the fixture `world`."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    async def test_it_is_read_back_as_it_was_declared(self, world: World, tmp_path: Path) -> None:
        """Ports with their names, numbers and protocols, weight, labels and locality."""
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            service, instance = seen.service("reviews"), only(seen)
        assert service is not None
        assert instance is not None
        assert service.key.namespace == "default"
        assert set(service.ports) == {
            Port("web", 9080, Protocol.HTTP),
            Port("admin", 9081, Protocol.HTTP),
            Port("rpc", 9090, Protocol.GRPC),
        }
        assert instance.address == "10.0.0.5"
        assert instance.ports == {"web": 19080, "admin": 9081, "rpc": 9090}
        assert instance.weight == 7
        assert instance.locality == Locality("eu", "eu-1", "rack7")
        assert instance.labels.items() >= {"version": "v1", "example.com/team": "blue"}.items()
        assert not any(key.startswith("isthmus-") for key in instance.labels)
        assert seen.latest.quarantined == ()

    async def test_it_is_unhealthy_before_its_first_success(self, world: World, tmp_path: Path) -> None:
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            await eventually(lambda: only(seen), "it is there")
            assert health(seen) is Health.UNHEALTHY
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it succeeds")
            one.registrar.report("reviews-vm-1", False, "connection refused")
            await eventually(lambda: health(seen) is Health.UNHEALTHY, "it fails")
            (problem,) = one.registrar.problems()
            assert "reviews" in problem
            assert "connection refused" in problem
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it succeeds again")
            assert one.registrar.problems() == []

    async def test_it_stays_as_long_as_it_is_renewed(self, world: World, tmp_path: Path) -> None:
        """Beyond its TTL, without a change that any reader could see."""
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            before = len(seen.snapshots)
            await asyncio.sleep(world.gone_within)  # what is to be seen is that nothing happens
            assert {only_health(s) for s in seen.snapshots[before:]} <= {Health.HEALTHY}
            assert health(seen) is Health.HEALTHY

    async def test_it_drains_and_is_withdrawn(self, world: World, tmp_path: Path) -> None:
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            await one.registrar.drain()
            await eventually(lambda: health(seen) is world.draining, "it drains")
            one.registrar.report("reviews-vm-1", True, "the probe succeeds still")
            await one.registrar.withdraw()
            await eventually(lambda: only(seen) is None, "it is gone")
            await eventually(lambda: one.ended, "the registrar has ended")
            assert one.registrar.problems() == []

    async def test_an_agent_that_starts_after_one_that_drained_serves(self, world: World, tmp_path: Path) -> None:
        """It takes back what the one before it said, and had no time to withdraw."""
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            await one.registrar.drain()
            await eventually(lambda: health(seen) is world.draining, "it drains")
            await one.kill()
            async with agent(world.config, tmp_path) as other:
                other.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: health(seen) is Health.HEALTHY, "it serves again")

    async def test_a_restart_shows_nowhere(self, world: World, tmp_path: Path) -> None:
        """The agent is killed, and the next one takes over what is registered, before it has asked the application."""
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            before = len(seen.snapshots)
            await one.kill()
            async with agent(world.config, tmp_path, mk_registered(weight=9)) as other:
                await eventually(lambda: (i := only(seen)) and i.weight == 9, "the new agent's registration")
                other.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: other.registrar.standings()[0].registered, "it is registered")
                assert {only_health(s) for s in seen.snapshots[before:]} == {Health.HEALTHY}

    async def test_an_agent_that_was_killed_is_not_believed_for_long(self, world: World, tmp_path: Path) -> None:
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            await one.kill()
            await eventually(
                lambda: health(seen) is not Health.HEALTHY, "it is given up", timeout=world.gone_within + 5
            )

    async def test_what_the_registry_forgets_is_registered_again(self, world: World, tmp_path: Path) -> None:
        with capture_logs() as logs:
            async with agent(world.config, tmp_path) as one, reading(world) as seen:
                one.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
                await world.forget()
                await eventually(lambda: any(only_health(s) is None for s in seen.snapshots[1:]), "it is forgotten")
                await eventually(lambda: health(seen) is Health.HEALTHY, "it is there again, and healthy")
        assert "agent.registration_lost" in [entry["event"] for entry in logs]

    async def test_the_newer_of_two_agents_has_the_instance(self, world: World, tmp_path: Path) -> None:
        """The older one says so, writes no more, and takes nothing away when it leaves."""
        async with agent(world.config, tmp_path) as old, reading(world) as seen:
            old.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            async with agent(world.config, tmp_path, mk_registered(address="10.0.0.6")) as new:
                new.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: (i := only(seen)) and i.address == "10.0.0.6", "the newer agent's")
                await eventually(old.registrar.problems, "the older one notices")
                assert "newer agent" in old.registrar.problems()[0]
                old.registrar.report("reviews-vm-1", False, "connection refused")
                await old.registrar.drain()
                await old.registrar.withdraw()
                new.registrar.report("reviews-vm-1", False, "connection refused")
                await eventually(lambda: health(seen) is Health.UNHEALTHY, "what the newer one says")
                new.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: health(seen) is Health.HEALTHY, "what the newer one says")
                instance = only(seen)
                assert instance is not None
                assert instance.address == "10.0.0.6"
                assert new.registrar.problems() == []

    async def test_an_agent_that_has_not_noticed_a_newer_one_takes_nothing_away_from_it(
        self, world: World, tmp_path: Path
    ) -> None:
        """It was frozen, say, wakes up when the newer one has begun, and is told to end."""
        async with agent(world.config, tmp_path) as old, reading(world) as seen:
            old.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")
            await old.kill()
            async with agent(world.config, tmp_path, mk_registered(address="10.0.0.6")) as new:
                new.registrar.report("reviews-vm-1", True, "200")
                await eventually(lambda: (i := only(seen)) and i.address == "10.0.0.6", "the newer agent's")
                before = len(seen.snapshots)
                await old.registrar.withdraw()
                await eventually(lambda: new.registrar.standings()[0].registered, "it is registered")
                new.registrar.report("reviews-vm-1", False, "refused")
                await eventually(lambda: health(seen) is Health.UNHEALTHY, "what the newer one says")
                assert None not in {only_health(s) for s in seen.snapshots[before:]}

    async def test_what_no_agent_has_registered_is_left_alone(self, world: World, tmp_path: Path) -> None:
        await world.register_by_hand("reviews", "reviews-vm-1")
        async with agent(world.config, tmp_path) as one, reading(world) as seen:
            before = seen.service("reviews")
            await eventually(one.registrar.problems, "it says why it does not register")
            assert "by no agent" in one.registrar.problems()[0]
            await one.registrar.withdraw()
            assert seen.service("reviews") == before
            assert before is not None

    async def test_a_frozen_registry_is_a_problem_with_a_date_and_then_none(self, world: World, tmp_path: Path) -> None:
        async with agent(world.config, tmp_path) as one:
            one.registrar.report("reviews-vm-1", True, "200")
            await eventually(lambda: one.registrar.standings()[0].registered, "it is registered")
            with world.freeze():
                await eventually(one.registrar.problems, "the problem", timeout=20)
                (problem,) = one.registrar.problems()
            await eventually(lambda: not one.registrar.problems(), "no problem any more", timeout=30)
            assert "not kept up since 20" in problem
            assert "no answer within" in problem
            async with reading(world) as seen:
                await eventually(lambda: health(seen) is Health.HEALTHY, "it is there and healthy")


def only_health(snapshot: Any) -> Health | None:
    """The health of the only instance in a snapshot."""
    instances = [i for key, s in snapshot.services.items() if key.name == "reviews" for i in s.instances]
    return instances[0].health if instances else None
