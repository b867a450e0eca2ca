"""Every way that a small world can go, up to so many steps: Hypothesis samples a large world, and here a small one has no gaps.

The search goes breadth first, from a client that has asked for nothing yet and from one that has settled. The auditor of
`tests.model.session` watches every message on the way; where nothing is under way any more, and at the end of every way, the
client must hold what it asked for. Two states are one if nothing that may still come can tell them apart: nonces are compared
by where they are equal, and generations not at all.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message

from isthmus.xds.protocol.delta import DeltaStream, DeltaSubstream
from isthmus.xds.protocol.holdings import Holdings
from isthmus.xds.protocol.parking import Parking
from isthmus.xds.protocol.sotw import SotwStream, SotwSubstream
from isthmus.xds.protocol.subscription import Subscription
from isthmus.xds.resource import Resource, ResourceSnapshot, TypeUrl
from tests.model.client import WHOLE, Client, DeltaClient, SotwClient
from tests.model.served import CDS, EDS, LDS, RDS, World, mk_resource
from tests.model.session import WHOLLY, Session

Action = tuple[Any, ...]
"""A method of State, and what it is called with."""

MORE_STEPS = 2 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 0


class Universe(msgspec.Struct, frozen=True):
    """What there may be; what a client asks for and gives up beyond the whole of a type; how far the search goes.

    Under each variant's name, the states and the moves between them that it must find at least: it must not shrink unnoticed.
    """

    things: tuple[tuple[TypeUrl, str], ...]
    asked: tuple[tuple[TypeUrl, str], ...]
    steps: int
    sotw: tuple[int, int]
    delta: tuple[int, int]


A_CLUSTER, ITS_ENDPOINTS, A_LISTENER = (CDS, "a"), (EDS, "a"), (LDS, "l")
UNIVERSES = {
    "two clusters": Universe(
        (A_CLUSTER, (CDS, "b")),
        (),
        6,
        sotw=(2_100, 5_600),
        delta=(2_200, 5_700),
    ),
    "a cluster by name and with all": Universe(
        (A_CLUSTER,),
        (A_CLUSTER, (CDS, "*")),
        6,
        sotw=(3_500, 8_000),
        delta=(4_100, 9_200),
    ),
    "a cluster and its endpoints": Universe(
        (A_CLUSTER, ITS_ENDPOINTS),
        (ITS_ENDPOINTS,),
        6,
        sotw=(5_100, 15_000),
        delta=(5_800, 17_000),
    ),
    "a cluster and a listener": Universe(
        (A_CLUSTER, A_LISTENER),
        (),
        6,
        sotw=(1_900, 6_000),
        delta=(2_000, 6_400),
    ),
    "two routes": Universe(
        ((RDS, "a"), (RDS, "b")),
        ((RDS, "a"), (RDS, "b")),
        5,
        sotw=(3_400, 8_400),
        delta=(4_300, 10_300),
    ),
}
CLIENTS: dict[str, Callable[[], Client]] = {"sotw": SotwClient, "delta": DeltaClient}


class State:
    """The world, a client, and what is under way between it and its stream."""

    def __init__(self, universe: Universe, client: Client) -> None:
        self.universe = universe
        self.world = World()
        self.client = client
        for type_url, name in universe.things:
            self.world.put(type_url, name)
        self.session = Session(client, self.world.publish())

    def actions(self) -> Iterator[Action]:
        """What may happen next."""
        client, inbox = self.client, self.session.inbox
        if not client.opened:
            yield ("open",)
        if client.outbox:
            yield ("server_reads",)
        if inbox:
            yield ("client_takes",)
            for name in client.may_refuse(inbox[0]):
                yield "client_refuses", name
                if not self.session.is_in_vain(inbox[0], name):
                    yield "client_takes_nothing", name
        for type_url, name in self.universe.things:
            now = self.world.resources[type_url].get(name)
            if now is not None:
                yield "remove", type_url, name
            for content in range(2):
                if now != mk_resource(type_url, name, content):
                    yield "put", type_url, name, content
        for type_url, name in self.universe.asked:
            if type_url in client.opened:
                wanted = client.wildcard[type_url] if name == "*" else name in client.names[type_url]
                yield "drop" if wanted else "ask", type_url, name
        if client.opened:
            yield ("reconnect",)
        if self.session.stream.wake_at is not None:
            yield ("wait",)

    def open(self) -> None:
        for type_url in dict.fromkeys(t for t, _ in self.universe.things):
            names = [n for t, n in self.universe.asked if t is type_url]
            self.client.open(type_url, [] if type_url in WHOLE else names)

    def server_reads(self) -> None:
        self.session.to_server()

    def client_takes(self) -> None:
        response = self.session.inbox.popleft()
        self.client.take(response)
        self.client.answer(response)

    def client_refuses(self, name: str) -> None:
        response = self.session.inbox.popleft()
        self.client.refuse_some(response, [name])
        self.client.answer(response, f"Error adding/updating cluster(s): {name}")

    def client_takes_nothing(self, name: str) -> None:
        response = self.session.inbox.popleft()
        self.client.refuse_for(response, name)
        self.client.answer(response, f"{WHOLLY}{name}")

    def put(self, type_url: TypeUrl, name: str, content: int) -> None:
        self.world.put(type_url, name, content)
        self.session.update(self.world.publish())

    def remove(self, type_url: TypeUrl, name: str) -> None:
        self.world.remove(type_url, name)
        self.session.update(self.world.publish())

    def ask(self, type_url: TypeUrl, name: str) -> None:
        self.client.change(type_url, [name])

    def drop(self, type_url: TypeUrl, name: str) -> None:
        self.client.change(type_url, [], [name])

    def reconnect(self) -> None:
        self.session.connect(self.world.snapshot)
        self.client.reopen()

    def wait(self) -> None:
        self.session.wait(5.0)

    def next_delivery(self) -> Action | None:
        """What happens if neither the world nor the client's mind changes; None when nothing is under way."""
        if self.client.outbox:
            return ("server_reads",)
        if self.session.inbox:
            return ("client_takes",)
        return None if self.session.stream.wake_at is None else ("wait",)

    def act(self, action: Action) -> None:
        getattr(self, action[0])(*action[1:])

    def settle(self) -> None:
        """Deliver what is under way."""
        for _ in range(100):
            delivery = self.next_delivery()
            if delivery is None:
                return
            self.act(delivery)
        raise AssertionError("never quiet")

    def check(self) -> None:
        """With nothing under way the client holds what it asked for, unless it refused that, and the server knows it."""
        self.client.check(self.world.resources)
        self.session.check_answered()
        assert not any(s.pending for s in self.session.stream.status()), (
            "it has something to send, and does not send it"
        )


_CHANGING = (State, World, Session, SotwClient, DeltaClient, SotwStream, DeltaStream, SotwSubstream, DeltaSubstream)
_OBJECTS = frozenset({*_CHANGING, Subscription, Holdings, Parking})
_PLAIN = frozenset({Resource, bool, int, bytes, type(None), TypeUrl})
_TELLS_NOTHING = frozenset(
    {
        *("generation", "since", "is_initial", "nonces", "sent", "bound_ran_out", "universe", "snapshot"),
        *("_generation", "_since", "_plain_generation", "_sent_generation", "_acked_generation", "_suffixes"),
        *("_answering", "_snapshot", "_resources", "_turns"),
    }
)
"""Attributes that follow from others, or that nothing is decided by."""


def clone(value: Any, known: dict[int, Any]) -> Any:
    """A copy that can go another way. Values are shared; `known` are the copies that have been made, by id."""
    kind = type(value)
    if kind is dict:
        return {k: v if type(v) in _PLAIN else clone(v, known) for k, v in value.items()}
    if kind in (set, deque, Counter):
        return kind(value)
    if kind not in _OBJECTS:
        return value
    made = known.get(id(value))
    if made is None:
        made = known[id(value)] = object.__new__(kind)
        for name in attributes(value):
            part = getattr(value, name)
            setattr(made, name, part if type(part) in _PLAIN else clone(part, known))
    return made


def attributes(value: object) -> tuple[str, ...]:
    """The names of an object's own attributes, those in slots too."""
    slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()) if s != "__weakref__"]
    return (*slots, *getattr(value, "__dict__", ()))


class Shape:
    """Reads off a state all that may matter for what comes."""

    def __init__(self, state: State) -> None:
        self._nonces: dict[str, int] = {}
        self._now = state.session.now

    def of(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value.digest if kind is Resource else value
        if kind is str:
            is_nonce = "-" in value and value[-1].isdigit()
            return self._nonces.setdefault(value, len(self._nonces)) if is_nonce else value
        if kind is float:
            return value and value - self._now
        if kind is dict:
            return tuple([(k, self.of(v)) for k, v in sorted(value.items())])
        if kind is set or kind is frozenset:
            return frozenset(value)
        if kind is tuple or kind is deque or kind is list:
            return tuple([self.of(v) for v in value])
        if kind in _OBJECTS:
            return tuple([self.of(getattr(value, n)) for n in attributes(value) if n not in _TELLS_NOTHING])
        if kind is ResourceSnapshot:
            return None
        if isinstance(value, msgspec.Struct):
            return tuple([self.of(getattr(value, n)) for n in value.__struct_fields__ if n not in _TELLS_NOTHING])
        if isinstance(value, Message):
            return tuple([(f.number, self.of(v)) for f, v in value.ListFields()])
        if hasattr(value, "MergeFrom"):  # a message's map or repeated field
            return tuple(sorted(value.items() if hasattr(value, "items") else value))
        return value


def search(universe: Universe, client: Callable[[], Client]) -> tuple[int, int]:
    """Walk it; returns how many states there were, and how many moves between them."""
    fresh = State(universe, client())
    settled = clone(fresh, {})
    settled.open()
    settled.settle()
    front: list[tuple[State, tuple[Action, ...]]] = [(fresh, ()), (settled, (("settled",),))]
    seen = {hash(Shape(s).of(s)) for s, _ in front}
    moves = 0
    for left in reversed(range(universe.steps + MORE_STEPS)):
        reached: list[tuple[State, tuple[Action, ...]]] = []
        for state, way in front:
            for action in state.actions():
                moves += 1
                after = clone(state, {})
                try:
                    after.act(action)
                    shape = hash(Shape(after).of(after))
                    if shape in seen:
                        continue
                    seen.add(shape)
                    if left:
                        reached.append((after, (*way, action)))
                    else:
                        after.settle()
                    if after.next_delivery() is None:
                        after.check()
                except AssertionError as e:
                    raise AssertionError(f"{e}, after {[*way, action]}") from e
        front = reached
    return len(seen), moves


@pytest.mark.parametrize("variant", CLIENTS)
@pytest.mark.parametrize("name", UNIVERSES)
def test_whatever_happens(name: str, variant: str) -> None:
    """`HYPOTHESIS_PROFILE=nightly` takes two steps more."""
    universe = UNIVERSES[name]
    states, moves = search(universe, CLIENTS[variant])
    least_states, least_moves = universe.sotw if variant == "sotw" else universe.delta
    assert states >= least_states
    assert moves >= least_moves
