"""The services of this benchmark and what happens to their instances, in words of no platform. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

INSTANCES = 10
NODES = 500
PORT = 8080

Kind = Literal["health", "weight", "address"]


class State(msgspec.Struct, frozen=True, array_like=True):
    """One instance as it is from some moment on. `place` counts how often it has moved to another address."""

    service: int
    instance: int
    weight: int = 10
    healthy: bool = True
    place: int = 0

    @property
    def name(self) -> str:
        return f"bench-{self.service:04}"

    @property
    def id(self) -> str:
        return f"{self.name}-{self.instance}"

    @property
    def address(self) -> str:
        """An address that no other instance ever has."""
        return f"10.{self.service >> 8}.{self.service & 255}.{self.place % 20 * 12 + self.instance + 1}"

    @property
    def node(self) -> str:
        return f"node-{(self.service * 10 + self.instance) % NODES}"


class Fleet:
    """Services 0 to `size` - 1, each with `instances`, and their present states."""

    def __init__(self, size: int, instances: int = INSTANCES) -> None:
        self.size = size
        self.instances = instances
        self._states: dict[tuple[int, int], State] = {}

    def __len__(self) -> int:
        return self.size * self.instances

    def states(self) -> Iterator[State]:
        """All instances, service by service."""
        for service in range(self.size):
            for instance in range(self.instances):
                yield self.state(service, instance)

    def of(self, service: int) -> list[State]:
        """The instances of one service."""
        return [self.state(service, instance) for instance in range(self.instances)]

    def state(self, service: int, instance: int) -> State:
        return self._states.get((service, instance)) or State(service, instance)

    def put(self, state: State) -> State:
        """An instance is so from now on; returns how it was."""
        before = self.state(state.service, state.instance)
        self._states[state.service, state.instance] = state
        return before

    def change(self, service: int, instance: int, kind: Kind) -> State:
        """The next state of an instance: fails or recovers, is weighed otherwise, or moves."""
        before = self.state(service, instance)
        match kind:
            case "health":
                after = msgspec.structs.replace(before, healthy=not before.healthy)
            case "weight":
                after = msgspec.structs.replace(before, weight=before.weight % 100 + 1)
            case "address":
                after = msgspec.structs.replace(before, place=before.place + 1)
        self.put(after)
        return after

    def changes(self, services: Sequence[int], kinds: Sequence[Kind], rng: random.Random) -> list[State]:
        """One change of some instance of each service, of the kinds in turn."""
        return [
            self.change(service, rng.randrange(self.instances), kinds[n % len(kinds)])
            for n, service in enumerate(services)
        ]

    def churn(self, count: int, kinds: Sequence[Kind], rng: random.Random) -> list[State]:
        """One change of each of `count` different instances, of the kinds in turn."""
        chosen = rng.sample(range(len(self)), count)
        return [self.change(*divmod(n, self.instances), kinds[i % len(kinds)]) for i, n in enumerate(chosen)]
