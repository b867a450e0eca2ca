"""The model tests notice when a rule is broken: each mutant is one rule left out of the machines, and must not survive."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import hypothesis
import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from isthmus.xds.order import TURNS, Turn, Wait
from isthmus.xds.protocol import stream
from isthmus.xds.protocol.delta import DeltaSubstream
from isthmus.xds.protocol.sotw import SotwSubstream
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.subscription import Subscription
from isthmus.xds.protocol.substream import Substream
from isthmus.xds.resource import TypeUrl
from tests.model.test_streams_with_any_client import AnyDeltaClient, AnySotwClient
from tests.model.test_streams_with_envoy import EnvoyOnBothVariants

Machine = type[RuleBasedStateMachine]


class Mutant(msgspec.Struct, frozen=True):
    """A method in whose source one text is replaced by another, and the model test that must notice."""

    owner: type
    method: str
    old: str
    new: str
    machine: Machine


MUTANTS = {
    "a refusal is answered with the same": Mutant(
        Substream,
        "_settle",
        "        if self.refused:\n",
        "        if self.refused:\n            self.owe({r.name for r in settled.resources} & self.subscription.names)\n",
        AnyDeltaClient,
    ),
    "a second response is sent while one is in flight": Mutant(
        Stream,
        "_take",
        "if substream is None or substream.in_flight is not None:",
        "if substream is None:",
        AnySotwClient,
    ),
    "a request without a nonce is dropped": Mutant(
        SotwSubstream,
        "receive",
        "received.outcome is Outcome.STALE and self.in_flight is None",
        "self.opened and not request.response_nonce",
        EnvoyOnBothVariants,
    ),
    "a stale request does not subscribe": Mutant(
        DeltaSubstream,
        "receive",
        "        self._apply(shift, held, first)\n",
        "        if received.outcome.name != 'STALE':\n            self._apply(shift, held, first)\n",
        AnyDeltaClient,
    ),
    "a refusal does not subscribe": Mutant(
        DeltaSubstream,
        "receive",
        "        self._apply(shift, held, first)\n",
        "        if received.outcome.name != 'NACKED':\n            self._apply(shift, held, first)\n",
        AnyDeltaClient,
    ),
    "a name asked for again is not sent again": Mutant(Substream, "_apply", "self.owe(known)", "pass", AnyDeltaClient),
    "unwanted names are still owed": Mutant(Substream, "_apply", "self.pending.pop(name, None)", "pass", AnySotwClient),
    "names end no legacy wildcard": Mutant(
        Subscription, "replace", "self._named |= bool(names)", "pass", AnySotwClient
    ),
    "names end the legacy wildcard of delta": Mutant(
        Subscription,
        "change",
        "(was_wildcard and WILDCARD not in left)",
        "(was_wildcard and WILDCARD not in left and not asked)",
        AnyDeltaClient,
    ),
    "what was to be sent beyond the log stays so": Mutant(
        Substream,
        "update",
        "frozenset(self._resources.keys() | resources.keys())",
        "frozenset(resources)",
        EnvoyOnBothVariants,
    ),
    "a partial response is complete": Mutant(SotwSubstream, "_build", "if self._is_whole:", "if True:", AnySotwClient),
    "any version is taken for ours": Mutant(
        SotwSubstream, "_has_all", "version != str(self._total)", "False", AnySotwClient
    ),
    "versions that a client holds are not looked at": Mutant(
        Substream, "_held", "current is not None and current.version == version", "current is not None", AnyDeltaClient
    ),
    "what a client holds is sent again": Mutant(
        Substream,
        "_apply",
        "self._look(name, self._held(name, version))",
        "self._look(name, Lacks.ASKED)",
        AnyDeltaClient,
    ),
    "a refusal by name is forgotten": Mutant(
        Substream, "_refuse", "self._park(parked)", "self._park({})", AnySotwClient
    ),
    "a refusal by name refuses the rest": Mutant(
        Substream, "_refuse", "named_in(error, sent)", "list(sent)", AnySotwClient
    ),
    "what is parked stays so when it changes": Mutant(
        Substream,
        "_park",
        "if current is not None and current.version == parked.version:",
        "if current is not None:",
        AnyDeltaClient,
    ),
    "what is parked is not looked at when it is asked for": Mutant(
        Substream, "_apply", "if self._parked:", "if False:", AnyDeltaClient
    ),
    "what was refused without having had it is not withdrawn": Mutant(
        Substream, "update", "self._after_refusal if name in unparked else Lacks.NEW", "Lacks.NEW", AnyDeltaClient
    ),
    "what came and went stays to be sent": Mutant(
        Substream, "_look", "has is not Lacks.NEW and self._tells_removal", "self._tells_removal", AnyDeltaClient
    ),
    "what cannot be withdrawn is forgotten": Mutant(
        Substream, "_look", "self._kept[name] = has", "pass", AnySotwClient
    ),
    "everything is known after coming back to it": Mutant(
        Substream, "_widen", "self._look(name, Lacks.NEW)", "pass", AnyDeltaClient
    ),
    "what is on its way while everything is asked for again is not withdrawn": Mutant(
        Substream, "_widen", "self._look(resource.name, Lacks.ASKED)", "pass", AnyDeltaClient
    ),
    "endpoints of a cluster that has gone are not answered": Mutant(
        SotwSubstream, "_tells_absence", " or self.type_url == TypeUrl.ENDPOINT", "", EnvoyOnBothVariants
    ),
    "a changed cluster leaves its endpoints behind": Mutant(
        Stream, "_renew", "substream.renew(", "frozenset(", EnvoyOnBothVariants
    ),
    "clusters go before their routes are acknowledged": Mutant(
        Stream, "_has_come", "substream.is_due or substream.in_flight or", "substream.is_due or", EnvoyOnBothVariants
    ),
}

ORDERS: dict[str, tuple[Turn, ...]] = {
    "endpoints wait for clusters": tuple(
        msgspec.structs.replace(t, after={TypeUrl.CLUSTER: Wait.ACKED}) if t.type_url is TypeUrl.ENDPOINT else t
        for t in TURNS
    ),
    "clusters go at once": tuple(msgspec.structs.replace(t, withdrawals_after={}) for t in TURNS),
    "routes do not wait for clusters": tuple(msgspec.structs.replace(t, after={}) for t in TURNS),
    "routes first": tuple(reversed(TURNS)),
}


def survives(machine: Machine) -> bool:
    """Whether a model test passes; without shrinking, as nobody reads the failure."""
    quiet = settings(
        max_examples=1000,
        stateful_step_count=50,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=quiet)
    except (AssertionError, LookupError):
        return False
    return True


def mutate(mutant: Mutant) -> Callable[..., object]:
    """The method with its text replaced, compiled where it stood."""
    found = inspect.getattr_static(mutant.owner, mutant.method)
    source = inspect.getsource(found.fget if isinstance(found, property) and found.fget else found)
    assert source.count(mutant.old) == 1, f"{mutant.method} has changed: {mutant.old!r}"
    names: dict[str, Callable[..., object]] = {}
    module = vars(sys.modules[mutant.owner.__module__])
    exec("if True:\n" + source.replace(mutant.old, mutant.new), module, names)  # noqa: S102 - the mutant is ours
    return names[mutant.method]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_machine_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    monkeypatch.setattr(mutant.owner, mutant.method, mutate(mutant))
    assert not survives(mutant.machine)


@pytest.mark.parametrize("name", ORDERS)
def test_a_broken_order_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TURNS", ORDERS[name])
    assert not survives(EnvoyOnBothVariants)
