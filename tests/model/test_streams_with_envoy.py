"""A client of Envoy's kind on each variant, side by side: make before break, warming, and the same end for both."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from isthmus.xds.protocol.response import Response
from isthmus.xds.resource import TypeUrl
from tests.model.client import Client, DeltaClient, SotwClient
from tests.model.served import CDS, EDS, LDS, ORDER, RDS, Backend, World, mesh, uses
from tests.model.session import Session

BACKENDS = st.dictionaries(
    st.sampled_from("abcd"),
    st.none() | st.builds(Backend, st.integers(0, 2), st.integers(0, 2), st.sampled_from(["http-0", "http-1", "tcp"])),
    max_size=3,
)


class Envoy:
    """Subscribes as Envoy does, warms clusters as Envoy does, and watches what it is left with after every message.

    It asks for all clusters and listeners, for the endpoints of each cluster it has and for each route that a listener uses. It
    withholds the acknowledgement of clusters until the endpoints have come for each that is new or changed.
    """

    def __init__(self, client: Client, world: World) -> None:
        self.client = client
        self.session = Session(client, world.snapshot)
        self.cold: set[str] = set()
        """Clusters that wait for their endpoints to be sent."""
        self.usable: set[str] = set()
        """Clusters that have been warm at some time since they were added."""
        self.withheld: Response | None = None
        self.may_break = False
        """Configuration was refused, or a bound ran out, or the stream broke: it may be left without what it uses."""
        client.open(CDS, [])
        client.open(LDS, [])

    def take(self, error: str = "") -> None:
        """Handle the oldest message; an error refuses it."""
        response = self.session.inbox.popleft()
        type_url = TypeUrl(response.type_url)
        if error:
            self.may_break = True
            self.client.refuse(response, self.session.new_in(response))
            self.client.answer(response, error)
            self._ask_for_routes()
            return
        before = dict(self.client.held[type_url])
        self.client.take(response)
        held = self.client.held
        match type_url:
            case TypeUrl.CLUSTER:
                self.cold |= {n for n, r in held[CDS].items() if before.get(n) != r}
                self.cold &= held[CDS].keys()
                self.usable &= held[CDS].keys()
                self._ask(EDS, set(held[CDS]))
                self.withheld = response
            case TypeUrl.ENDPOINT:
                answered = {r.name for r in response.resources} | set(response.removed)
                self.cold -= answered
                self.usable |= answered & held[CDS].keys()
            case TypeUrl.LISTENER:
                self._ask_for_routes()
        if type_url != CDS:
            self.client.answer(response)
        self._warm()
        self._check_uses()

    def _warm(self) -> None:
        if self.withheld is not None and not self.cold:
            self.client.answer(self.withheld)
            self.withheld = None

    def _ask_for_routes(self) -> None:
        listeners = self.client.held[LDS].values()
        self._ask(RDS, {n for r in listeners for n in uses(r) if r.body.startswith(b"route")})

    def _ask(self, type_url: TypeUrl, names: set[str]) -> None:
        has = self.client.names[type_url]
        if names != has:
            self.client.change(type_url, names - has, has - names)

    def _check_uses(self) -> None:
        """Whatever it routes to is there, and warm."""
        if self.may_break or self.session.bound_ran_out:
            return
        held = self.client.held
        used: set[str] = set()
        for listener in held[LDS].values():
            if listener.body.startswith(b"cluster"):
                used |= uses(listener)
            else:
                routes = [held[RDS][n] for n in uses(listener) if n in held[RDS]]
                used |= {c for r in routes for c in uses(r)}
        assert used <= self.usable, f"routes to clusters it does not have, warm: {sorted(used - self.usable)}"

    def reconnect(self, world: World) -> None:
        self.session.connect(world.snapshot)
        self.may_break = True
        self.withheld = None
        self.client.reopen()

    def settle(self, world: World) -> None:
        """Deliver everything until nothing is under way, waiting only where the server may make us wait."""
        for _ in range(200):
            if self.client.outbox:
                self.session.to_server()
            elif self.session.inbox:
                self.take()
            elif self.session.stream.wake_at is not None:
                assert self.may_break, "the server waits for something that never comes"
                self.session.wait(self.session.stream.wake_at - self.session.now)
            else:
                return
        raise AssertionError("never quiet")

    def check_settled(self, world: World) -> None:
        """It holds what exists, at the right version, and all of it is warm."""
        self.client.check(world.resources)
        if not self.client.refused:
            assert not self.cold, f"clusters without endpoints: {sorted(self.cold)}"
            assert self.withheld is None
        for status in self.session.stream.status():
            assert not status.in_flight
            assert status.sent_generation == world.snapshot.generation
            refused = TypeUrl(status.type_url) in self.client.refused
            assert (status.acked_generation == world.snapshot.generation) == (not refused)
            assert bool(status.error) == (refused or bool(status.parked))


class EnvoyOnBothVariants(RuleBasedStateMachine):
    """Rule 35."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.backends: dict[str, Backend] = {}
        self.envoys = [Envoy(SotwClient(), self.world), Envoy(DeltaClient(), self.world)]

    @rule(changes=BACKENDS)
    def change(self, changes: dict[str, Backend | None]) -> None:
        self._change(changes)
        self._serve()

    def _change(self, changes: dict[str, Backend | None]) -> None:
        for name, backend in changes.items():
            if backend is None:
                self.backends.pop(name, None)
            else:
                self.backends[name] = backend
        self.world.replace(mesh(self.backends))
        self.world.publish()

    def _serve(self) -> None:
        for envoy in self.envoys:
            envoy.session.update(self.world.snapshot)

    @rule(changes=BACKENDS)
    def change_beyond_the_log(self, changes: dict[str, Backend | None]) -> None:
        self._change(changes)
        self.world.forget_log()
        self._serve()

    @rule(which=st.integers(0, 1), count=st.integers(1, 3))
    def to_envoy(self, which: int, count: int) -> None:
        for _ in range(count):
            if self.envoys[which].session.inbox:
                self.envoys[which].take()

    @rule(which=st.integers(0, 1), count=st.integers(1, 3))
    def to_server(self, which: int, count: int) -> None:
        for _ in range(count):
            if self.envoys[which].client.outbox:
                self.envoys[which].session.to_server()

    @rule(which=st.integers(0, 1))
    def refuse(self, which: int) -> None:
        envoy = self.envoys[which]
        if envoy.session.inbox and envoy.session.inbox[0].type_url in (LDS, RDS):
            envoy.take("no")

    @rule(which=st.integers(0, 1), seconds=st.sampled_from([0.5, 3.0]))
    def wait(self, which: int, seconds: float) -> None:
        self.envoys[which].session.wait(seconds)

    @rule(changes=BACKENDS)
    def reconnect(self, changes: dict[str, Backend | None]) -> None:
        """The server restarts, on a world that has moved on, and the clients come back with what they hold."""
        for envoy in self.envoys:
            envoy.settle(self.world)
        self._change(changes)
        self.world.restart()
        for envoy in self.envoys:
            has_all = not changes and not envoy.client.lacks_any
            envoy.reconnect(self.world)
            if has_all:
                shown = [t for t in ORDER if envoy.client.can_show(t)]
                assert CDS in shown
                assert LDS in shown
                before = envoy.session.sent.copy()
                envoy.settle(self.world)
                assert [t for t in shown if envoy.session.sent[t] != before[t]] == [], "sent though nothing had changed"

    @rule()
    def settle(self) -> None:
        for envoy in self.envoys:
            envoy.settle(self.world)
            envoy.check_settled(self.world)
        sotw, delta = (e.client for e in self.envoys)
        if not (sotw.lacks_any or delta.lacks_any):
            for type_url in ORDER:
                wanted = sotw.names[type_url] if type_url in (EDS, RDS) else sotw.held[type_url].keys()
                assert {n: sotw.held[type_url].get(n) for n in wanted} == {
                    n: delta.held[type_url].get(n) for n in wanted
                }
            assert sotw.names == delta.names

    def teardown(self) -> None:
        self.settle()


TestEnvoyOnBothVariants = EnvoyOnBothVariants.TestCase
