"""Mutants: each is one rule left out of the product, and named with the test that must notice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import msgspec
from hypothesis.stateful import RuleBasedStateMachine

from isthmus.xds import encode
from isthmus.xds.order import TURNS, Turn, Wait
from isthmus.xds.protocol import refusal, sotw
from isthmus.xds.protocol.delta import DeltaSubstream
from isthmus.xds.protocol.holdings import Holdings
from isthmus.xds.protocol.parking import Parking
from isthmus.xds.protocol.sotw import SotwSubstream
from isthmus.xds.protocol.stream import Stream
from isthmus.xds.protocol.subscription import Subscription
from isthmus.xds.protocol.substream import Substream
from isthmus.xds.resource import TypeUrl
from tests.model.served import CDS
from tests.model.talk import SotwTalk
from tests.model.test_streams_with_any_client import AnyDeltaClient, AnySotwClient
from tests.model.test_streams_with_envoy import EnvoyOnBothVariants
from tests.unit.xds import test_encode as encoding
from tests.unit.xds.protocol import test_rules_refusals as refusals
from tests.unit.xds.protocol import test_rules_requests as requests
from tests.unit.xds.protocol import test_stream as streams

NOT_NAMED = partial(refusals.test_names_in_a_text, "none of ours: outbound|80||ab bb", set())
SEARCH = partial(refusals.test_a_refusal_that_names_nothing_holds_up_what_is_bad_alone, SotwTalk, TypeUrl.ENDPOINT)

Killer = type[RuleBasedStateMachine] | Callable[..., None] | str
"""A model test, a unit test that takes nothing or a `talk`, or the name of a universe of the exhaustive search."""


class Mutant(msgspec.Struct, frozen=True):
    """A method or function in whose source one text is replaced by another, and the test that must notice."""

    owner: type | ModuleType
    method: str
    old: str
    new: str
    killer: Killer


MUTANTS = {
    "a refusal is answered with the same": Mutant(
        Substream,
        "_settle",
        "        if self.refused:\n",
        "        if self.refused:\n            self.holdings.owe([r.name for r in sent.response.resources])\n",
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
    "a name asked for again is not sent again": Mutant(Holdings, "take_up", "self.owe(known)", "pass", AnyDeltaClient),
    "unwanted names are still owed": Mutant(Holdings, "give_up", "self.pending.pop(name, None)", "pass", AnySotwClient),
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
        Parking,
        "update",
        "frozenset(self._resources.keys() | resources.keys())",
        "frozenset(resources)",
        EnvoyOnBothVariants,
    ),
    "a partial response is complete": Mutant(SotwSubstream, "_build", "if self._is_whole:", "if True:", AnySotwClient),
    "any version is taken for ours": Mutant(Holdings, "has_all", "version == str(self.total)", "True", AnySotwClient),
    "versions that a client holds are not looked at": Mutant(
        Holdings, "_held", "current is not None and current.version == version", "current is not None", AnyDeltaClient
    ),
    "what a client holds is sent again": Mutant(
        Holdings,
        "take_up",
        "self.look(name, self._held(name, version))",
        "self.look(name, Lacks.ASKED)",
        AnyDeltaClient,
    ),
    "a refusal by name is forgotten": Mutant(
        Parking, "refuse", "self._keep({**self.parked, **parked})", "self._keep(self.parked)", AnySotwClient
    ),
    "a refusal by name refuses the rest": Mutant(
        Parking, "refuse", "named_in(error, brought)", "list(brought)", AnySotwClient
    ),
    "what is parked stays so when it changes": Mutant(
        Parking,
        "_keep",
        "if current is not None and current.version == known.version:",
        "if current is not None:",
        AnyDeltaClient,
    ),
    "what is parked is not looked at when it is asked for": Mutant(
        Substream, "_apply", "if self.parking.parked:", "if False:", AnyDeltaClient
    ),
    "what was refused without having had it is not withdrawn": Mutant(
        Holdings,
        "update",
        "self._telling.after_refusal if name in unparked else Lacks.NEW",
        "Lacks.NEW",
        refusals.test_what_was_refused_when_it_was_asked_for_anew_is_told_to_go,
    ),
    "what came and went stays to be sent": Mutant(
        Holdings, "look", "has is not Lacks.NEW and telling.removal", "telling.removal", AnyDeltaClient
    ),
    "what cannot be withdrawn is forgotten": Mutant(Holdings, "look", "self.kept[name] = has", "pass", AnySotwClient),
    "everything is known after coming back to it": Mutant(
        Holdings, "_widen", "self.look(name, Lacks.NEW)", "pass", AnyDeltaClient
    ),
    "what is on its way while everything is asked for again is not withdrawn": Mutant(
        Holdings, "_widen", "self.look(resource.name, Lacks.ASKED)", "pass", AnyDeltaClient
    ),
    "endpoints of a cluster that has gone are not answered": Mutant(
        sotw, "_telling", " or type_url == TypeUrl.ENDPOINT", "", EnvoyOnBothVariants
    ),
    "a changed cluster leaves its endpoints behind": Mutant(
        Stream, "_renew", "substream.holdings.renew(", "frozenset(", EnvoyOnBothVariants
    ),
    "clusters go before their routes are acknowledged": Mutant(
        Stream, "_has_come", "substream.is_due or substream.in_flight or", "substream.is_due or", EnvoyOnBothVariants
    ),
    # Refusals.
    "what a client has accepted before is left out when it is named": Mutant(
        Parking, "refuse", "name not in fresh or ", "", refusals.test_what_it_has_accepted_before_is_not_parked
    ),
    "what a client may have from an earlier stream is left out": Mutant(
        SotwSubstream, "_may_hold_more", "return ", "return False and ", refusals.test_a_new_stream_knows_of_no_refusal
    ),
    "what is refused is kept for all that has been asked for anew": Mutant(
        Substream,
        "_apply",
        "shift.repeated or shift.widened\n            self",
        "shift.repeated\n            self",
        refusals.test_all_that_is_asked_for_anew_is_offered_anew,
    ),
    "endpoints to be renewed are those that were refused meanwhile": Mutant(
        Holdings,
        "renew",
        "self.had |= had",
        "pass",
        refusals.test_endpoints_that_are_refused_while_their_cluster_changes,
    ),
    "endpoints are renewed of which nothing but the version is known": Mutant(
        Holdings,
        "renew",
        "(r := self.served.get(n)) is None or r.field",
        "True",
        refusals.test_a_new_stream_knows_of_no_refusal_in_delta,
    ),
    "what is refused after it has gone is taken to be there": Mutant(
        Parking,
        "refuse",
        "            holdings.kept.pop(name, None)\n",
        "",
        refusals.test_what_is_refused_after_it_has_gone_was_never_there,
    ),
    "a client that took nothing is not sent the rest again": Mutant(
        Parking,
        "refuse",
        "if named and not takes_rest and not (in_vain and self._telling.is_whole):",
        "if False:",
        refusals.test_what_was_refused_whole_is_sent_again_without_what_is_named,
    ),
    "a name is found within another": Mutant(
        refusal, "named_in", "re.search(_BEFORE + re.escape(n) + _AFTER, error)", "True", NOT_NAMED
    ),
    "what is refused after it was given up and asked for again is parked": Mutant(
        Parking,
        "refuse",
        "if not isinstance(has, Resource) or has.version != refused.version:",
        "if False:",
        "two routes",
    ),
    "what was refused in vain is brought again with the rest": Mutant(
        Parking,
        "refuse",
        " and not (in_vain and self._telling.is_whole)",
        "",
        refusals.test_a_list_refused_whole_and_in_vain_is_not_repeated,
    ),
    "what was asked for and has gone from what was refused whole is not told": Mutant(
        Parking,
        "_send_again",
        "(Lacks.ASKED if name in sent.asked else self._telling.after_refusal)",
        "self._telling.after_refusal",
        refusals.test_what_has_gone_from_a_list_refused_whole_is_told_to_who_asked_for_it,
    ),
    "what was refused in vain is gone on with": Mutant(
        Parking,
        "refuse",
        "(good is None or self._vain.get(name) == good.version)",
        "good is None",
        refusals.test_what_a_new_stream_saw_refused_is_nothing_to_go_on_with,
    ),
    "what was refused in vain and then accepted is not gone on with": Mutant(
        Substream,
        "_settle",
        "self.parking.accept()",
        "pass",
        refusals.test_what_was_refused_and_then_accepted_is_gone_on_with,
    ),
    "what was sent for its own sake is not sent again with the rest": Mutant(
        Parking,
        "_send_again",
        "going_on[name] = had\n                again.add(name)",
        "going_on[name] = had",
        refusals.test_a_response_refused_whole_leaves_a_cluster_without_its_endpoints,
    ),
    "unknown names are not told again with the rest": Mutant(
        Parking,
        "_send_again",
        "again = {n for n in sent.response.unknown if wants(n) and n not in holdings.pending}",
        "again = set()",
        refusals.test_a_response_refused_whole_leaves_unknown_names_unanswered,
    ),
    "what is refused without a name is not offered again": Mutant(
        Parking, "_suspect", "self._suspects += (names[half:], names[:half])", "pass", SEARCH
    ),
    "the search for what is refused without a name has no end": Mutant(
        Parking,
        "_suspect",
        "if self._tries >= TRIES:",
        "if False:",
        refusals.test_who_refuses_everything_without_a_name_is_asked_so_often_and_no_more,
    ),
    "what is refused without a name is known not to be there": Mutant(
        Parking,
        "update",
        "before[n].is_suspect",
        "False",
        refusals.test_what_may_have_been_taken_in_spite_of_a_refusal_is_sent_when_it_is_as_before,
    ),
    # The order between types.
    "endpoints asked for after their clusters are taken to be known": Mutant(
        Stream,
        "receive",
        "substream.holdings.renew(",
        "frozenset(",
        partial(streams.test_endpoints_are_sent_after_clusters_that_a_client_comes_back_to, CDS),
    ),
    "clusters that wait to go count as sent": Mutant(
        Stream,
        "_renew",
        " and not leader.holdings.withdrawals()",
        "",
        requests.test_endpoints_of_a_cluster_that_is_to_go_are_not_sent_again,
    ),
    "a wait has no end": Mutant(
        Stream,
        "_may_go",
        "if now >= until:",
        "if False:",
        refusals.test_a_listener_that_stays_refused_keeps_its_clusters_for_the_bound,
    ),
    "a withdrawal takes along those that have just begun to wait": Mutant(
        Stream,
        "_may_leave",
        "self._may_go((turn.type_url, n)",
        "self._may_go((turn.type_url, '*')",
        streams.test_each_withdrawal_has_its_own_time_to_wait,
    ),
    "a client that comes back is not given time to ask for its routes": Mutant(
        Stream,
        "receive",
        "self._expected_until = now + BOUND",
        "pass",
        streams.test_a_client_that_comes_back_keeps_clusters_until_its_routes_are_known,
    ),
    "a client that comes back is given time for ever": Mutant(
        Stream,
        "_has_come",
        " or now >= self._expected_until",
        "",
        requests.test_routes_that_are_never_asked_for_are_waited_for_once,
    ),
    # Bytes.
    "every resource of delta has an alias": Mutant(
        encode, "_delta_resource", '(field(4, name) if alias else b"")', "field(4, name)", encoding.test_delta
    ),
    "virtual hosts have no alias": Mutant(
        encode, "_delta_resource", '(field(4, name) if alias else b"")', 'b""', encoding.test_virtual_hosts_on_demand
    ),
    "a virtual host that has gone is told as one that nobody has": Mutant(
        encode,
        "to_delta_discovery_response",
        "on_demand and name in response.unknown",
        "on_demand",
        encoding.test_virtual_hosts_on_demand,
    ),
    "an error has another code": Mutant(
        encode, "_not_found", "code=_NOT_FOUND", "code=_NOT_FOUND + 1", encoding.test_state_of_the_world
    ),
    "endpoints that do not exist are an error": Mutant(
        encode,
        "to_discovery_response",
        "response.type_url == TypeUrl.ENDPOINT",
        "False",
        encoding.test_endpoints_that_do_not_exist_are_an_empty_assignment,
    ),
    "an empty assignment has no name": Mutant(
        encode,
        "_no_endpoints",
        "ClusterLoadAssignment(cluster_name=name)",
        "ClusterLoadAssignment()",
        encoding.test_endpoints_that_do_not_exist_are_an_empty_assignment,
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
