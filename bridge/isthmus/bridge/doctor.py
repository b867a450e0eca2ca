"""`isthmus doctor`: what is wrong with the registries and the proxies, and what is doubtful in the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from isthmus.bridge.registries import registry_states
from isthmus.registry.doubt import Finding, examine

if TYPE_CHECKING:
    from isthmus.bridge.answers import RegistryState
    from isthmus.bridge.bridge import Bridge

FIXES = {
    "NotListed": "see that it runs, and that its address, token and TLS settings are right",
    "Stale": "see that it runs and can be reached from here; what it said last is served meanwhile",
    "InDoubt": "give the token the right to read all that it shall carry, or wait for the registry to finish its start",
    "Feed": "see that each server has the bridge in its service-url, with the right user and password, and can reach it",
    "Store": "see that it can be reached and written; what has its address keeps it meanwhile",
    "Silent": "see that it and the bridge it registers with run and reach each other; it is served until its hold is over",
    "Held": "isthmus holds shows them; once it is true that they are gone, isthmus holds release NAME",
    "Drift": "the log has what differed (registry.drift); it was put right, and should be reported",
    "Rejected": "isthmus proxy-status shows what it refused; it keeps what it had",
}
"""What to do, by code, in the order in which findings are told."""

NAMED_WAITING = 5
"""Services without an address that a finding names."""


def examine_bridge(bridge: Bridge) -> tuple[Finding, ...]:
    """Everything that somebody should look at, the most pressing first."""
    found = [f for state in registry_states(bridge.hub, {}) for f in _of_registry(state)]
    found += [
        ("Rejected", proxy.node or proxy.peer, f"refused {t.type}: {t.error}")
        for proxy in bridge.server.proxies()
        for t in proxy.types
        if t.error
    ]
    if problem := bridge.vips.problem:
        waiting = ", ".join(sorted(bridge.vips.waiting)[:NAMED_WAITING]) or "none"
        text = f"the addresses of TCP services cannot be agreed on: {problem}; without one are {waiting}"
        found.append(("Store", bridge.store.where, text))
    if bridge.registrations is not None:
        found += [
            (
                "Silent",
                w.id,
                f"this workload of {w.service} is silent, and served all the same: so are many, or its bridge {w.bridge}",
            )
            for w in bridge.registrations.states()
            if w.held
        ]
    ranks = {code: rank for rank, code in enumerate(FIXES)}
    found.sort(key=lambda f: ranks[f[0]])
    quarantined = (q for status in bridge.hub.statuses.values() for q in status.quarantined)
    catalog = msgspec.structs.replace(bridge.published.catalog, conflicts=bridge.published.conflicts)
    own = (Finding(code, subject, text, FIXES[code]) for code, subject, text in found)
    return (*own, *examine(catalog, quarantined))


def _of_registry(state: RegistryState) -> Iterator[tuple[str, str, str]]:
    if not state.synced:
        served = "what was saved before is served" if state.services else "nothing of it is known"
        yield "NotListed", state.name, f"{state.error or 'its first listing is under way'}; {served}"
    elif state.stale_for_s is not None:
        yield "Stale", state.name, f"for {state.stale_for_s:.0f} s: {state.error}"
    if state.doubt:
        yield "InDoubt", state.name, state.doubt
    if state.feed in ("silent", "refused", "unavailable"):
        yield "Feed", state.name, f"its feed is {state.feed}: changes come by polling only, and later"
    if state.held:
        yield "Held", state.name, f"{state.held} instances are served that it no longer lists"
    if state.drift:
        yield "Drift", state.name, f"audits found {state.drift} differences that it cannot explain"
