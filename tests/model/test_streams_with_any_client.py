"""A client that asks for anything, refuses, forgets and repeats itself: what it asked for is what it ends up with."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from isthmus.xds.protocol.response import Outcome
from isthmus.xds.resource import TypeUrl
from tests.model.client import Client, DeltaClient, SotwClient
from tests.model.served import EDS, ORDER, RDS, World
from tests.model.session import WHOLLY, Session

TYPES = st.sampled_from(ORDER)
NAMES = st.sampled_from("abc")
ASKABLE = st.sets(st.sampled_from([*"abcz", "*"]), max_size=3)
CONTENT = st.integers(0, 2)
NOTHING = slice(0)
REFUSED = st.sampled_from([NOTHING, NOTHING, slice(1), slice(1, None), None])


class AnyClient(RuleBasedStateMachine):
    """Clusters, endpoints, listeners and routes here do not refer to each other but by cluster and endpoint names."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.client = self.mk_client()
        self.session = Session(self.client, self.world.snapshot)

    def mk_client(self) -> Client:
        raise NotImplementedError

    @initialize(asked=st.sets(TYPES), filled=st.booleans())
    def begin(self, asked: set[TypeUrl], filled: bool) -> None:
        """Begin in the middle, or with nothing."""
        if filled:
            self.change([(t, n, 0) for t in ORDER for n in "ab"], logged=True)
        for type_url in ORDER:
            if type_url in asked:
                self.ask(type_url, set("ab") if type_url in (EDS, RDS) else set(), set(), read=True)

    @rule(changes=st.lists(st.tuples(TYPES, NAMES, st.none() | CONTENT), min_size=1, max_size=3), logged=st.booleans())
    def change(self, changes: list[tuple[TypeUrl, str, int | None]], logged: bool) -> None:
        self._change(changes)
        if not logged:
            self.world.forget_log()
        self.session.update(self.world.snapshot)

    def _change(self, changes: list[tuple[TypeUrl, str, int | None]]) -> None:
        for type_url, name, content in changes:
            if content is None:
                self.world.remove(type_url, name)
            else:
                self.world.put(type_url, name, content)
        self.world.publish()

    @rule(type_url=TYPES, add=ASKABLE, drop=ASKABLE, read=st.booleans())
    def ask(self, type_url: TypeUrl, add: set[str], drop: set[str], read: bool) -> None:
        """Ask for more and for less, also for names that it has or does not have."""
        if type_url not in self.client.opened:
            self.client.open(type_url, add)
        else:
            self.client.change(type_url, add, drop)
        if read:
            self.to_server(10)

    @rule(refuse=REFUSED, add=st.just(set()) | st.sets(NAMES, max_size=1), read=st.booleans())
    def take(self, refuse: slice | None, add: set[str], read: bool) -> None:
        """Refuse all of a response without naming anything, or some of its resources by name, or nothing."""
        if not self.session.inbox:
            self.to_server(10)
        if self.session.inbox:
            response = self.session.inbox.popleft()
            error = ""
            if refuse is None:
                error = "no"
                self.client.refuse(response, self.session.new_in(response))
            elif named := self.client.may_refuse(response)[refuse]:
                error = f"Error adding/updating resource(s): {' '.join(named)}"
                self.client.refuse_some(response, named)
            else:
                self.client.take(response)
            self.client.answer(response, error, add)
        if read:
            self.to_server(10)

    @rule(which=st.integers(0, 3), read=st.booleans())
    def take_nothing(self, which: int, read: bool) -> None:
        """Refuse all of a response for the sake of one resource, by name."""
        names = self.client.may_refuse(self.session.inbox[0]) if self.session.inbox else []
        if which < len(names) and not self.session.is_in_vain(self.session.inbox[0], name := names[which]):
            response = self.session.inbox.popleft()
            self.client.refuse_for(response, name)
            self.client.answer(response, f"{WHOLLY}{name}")
        if read:
            self.to_server(10)

    @rule(count=st.integers(1, 3))
    def to_server(self, count: int) -> None:
        for _ in range(min(count, len(self.client.outbox))):
            before = set(self.session.in_flight.items())
            received = self.session.to_server()
            settled = received.settled
            assert (settled is not None) == (received.outcome in (Outcome.ACKED, Outcome.NACKED))
            if settled is not None:
                assert (settled.type_url, settled.nonce) in before
            assert bool(received.error) == (received.outcome is Outcome.NACKED)

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.session.wait(seconds)

    @rule(changes=st.lists(st.tuples(TYPES, NAMES, st.none() | CONTENT), max_size=2), restart=st.booleans())
    def reconnect(self, changes: list[tuple[TypeUrl, str, int | None]], restart: bool) -> None:
        self.settle()
        self._change(changes)
        if restart:
            self.world.restart()
        self.session.connect(self.world.snapshot)
        self.client.reopen()

    @rule()
    def settle(self) -> None:
        """With nothing under way and time gone by, it holds what it asked for, unless it refused that."""
        for _ in range(200):
            if self.client.outbox:
                self.to_server(1)
            elif self.session.inbox:
                self.take(refuse=NOTHING, add=set(), read=False)
            elif self.session.stream.wake_at is not None:
                assert self.session.stream.wake_at > self.session.now, "it would wake for ever"
                self.session.wait(self.session.stream.wake_at - self.session.now)
            else:
                break
        else:
            raise AssertionError("never quiet")
        self.client.check(self.world.resources)
        self.session.check_answered()
        for status in self.session.stream.status():
            assert not status.pending, "it has something to send, and does not send it"
            assert status.wildcard == self.client.wildcard[TypeUrl(status.type_url)]
            assert status.subscribed == len(self.client.names[TypeUrl(status.type_url)])

    def teardown(self) -> None:
        self.settle()


class AnySotwClient(AnyClient):
    def mk_client(self) -> Client:
        return SotwClient()


class AnyDeltaClient(AnyClient):
    def mk_client(self) -> Client:
        return DeltaClient()

    @rule(type_url=TYPES, gone=NAMES)
    def leave_and_come_back(self, type_url: TypeUrl, gone: str) -> None:
        """It leaves everything and asks for it again while a response is on its way, and something goes meanwhile."""
        if type_url in self.client.opened:
            self.client.change(type_url, drop={"*"})
            self.to_server(10)
            self.change([(type_url, gone, None)], logged=True)
            self.client.change(type_url, {"*"})
            self.to_server(10)

    @rule(type_url=TYPES, name=NAMES, refuse=REFUSED)
    def ask_again(self, type_url: TypeUrl, name: str, refuse: slice | None) -> None:
        """It asks for what it may have, and may refuse the answer."""
        if type_url in self.client.opened:
            self.client.change(type_url, {name})
            self.take(refuse=refuse, add=set(), read=True)

    @rule(repeats=st.booleans())
    def repeat_nonces(self, repeats: bool) -> None:
        assert isinstance(self.client, DeltaClient)
        self.client.repeats_nonces = repeats


TestAnySotwClient = AnySotwClient.TestCase
TestAnyDeltaClient = AnyDeltaClient.TestCase
