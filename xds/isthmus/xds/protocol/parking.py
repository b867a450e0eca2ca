"""What a client has refused of one type, and what it goes on with instead.

A refusal that names resources refuses those alone (clients apply the rest: gRFC A46, and Envoy does the same). They are
*parked*: until their content changes, the client is served what it had before under these names. The sort of client does not
matter here: what one Envoy refuses (an address in use on its host), another of the same build accepts.

A refusal that names nothing (Envoy's of a malformed address among endpoints) may be for any of what was new. One thing is
parked at once; several are parked, and offered again half by half, until those are found that are refused alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from isthmus.xds.protocol.holdings import Holdings, Lacks, Telling
from isthmus.xds.protocol.refusal import TEXT_LIMIT, named_in
from isthmus.xds.protocol.response import Sent
from isthmus.xds.resource import Resource, SetVersion

TRIES = 64
"""Refusals that name nothing before the search is given up; a bad one among 10,000 is found after 14."""


class Parked(msgspec.Struct, frozen=True):
    """A resource that the client has refused: the version, and what it goes on with (None: without)."""

    version: str
    good: Resource | None
    error: str
    is_suspect: bool = False
    """It was refused together with others, and may have been taken all the same."""


class Parking:
    """Between what is served to all and what this client has: the client's holdings are served all but what is parked."""

    __slots__ = ("_holdings", "_resources", "_suspects", "_telling", "_tries", "_vain", "_version", "parked")

    def __init__(
        self, holdings: Holdings, telling: Telling, resources: Mapping[str, Resource], version: SetVersion
    ) -> None:
        self.parked: Mapping[str, Parked] = _NONE
        self._suspects: tuple[list[str], ...] = ()
        """Names that are still to be offered again, in the groups that are offered together."""
        self._tries = 0
        self._vain: Mapping[str, str] = _NO_VERSIONS
        """Versions refused in vain, by name: what the client goes on with instead is not known."""
        self._holdings = holdings
        self._telling = telling
        self._resources = resources
        self._version = version

    def update(self, resources: Mapping[str, Resource], version: SetVersion, changed: frozenset[str] | None) -> None:
        """Serve other resources. `changed` names those that may differ from the last; None: all."""
        if changed is None:
            changed = frozenset(self._resources.keys() | resources.keys())
        self._resources, self._version = resources, version
        if not self._suspects:
            self._tries = 0
        if not self.parked:
            self._holdings.update(resources, version, changed)
            return
        before, holdings = self.parked, self._holdings
        unparked = self._keep(before)
        holdings.update(*self._served(), changed | unparked, unparked)
        # A suspect is back to what it was before, but the client may have the other one.
        for name in [n for n in unparked if before[n].is_suspect and n not in holdings.pending]:
            if holdings.subscription.wants(name) and not holdings.afresh:
                holdings.owe([name])

    def release(self, names: Collection[str]) -> None:
        """Offer what is parked under some names once more."""
        before, holdings = self._holdings.served, self._holdings
        released = self._keep({n: p for n, p in self.parked.items() if n not in names}) | set(names)
        self._serve()
        for name in released:
            if holdings.subscription.wants(name):
                holdings.look(name, holdings.pending.get(name) or before.get(name) or self._telling.after_refusal)

    def accept(self) -> None:
        """The client has taken all of a response."""
        self._vain = _NO_VERSIONS

    @property
    def is_searching(self) -> bool:
        """Whether there are suspects to be offered once more."""
        return bool(self._suspects)

    def offer(self) -> None:
        """Offer some of the suspects once more."""
        self.release(set(self._suspects[-1]))

    def refuse(self, sent: Sent, error: str, *, takes_rest: bool, may_hold_more: bool) -> tuple[str, ...]:
        """Park what the error names of a response; returns the names.

        `takes_rest`: the client has applied what the error does not name. `may_hold_more`: it may have from an earlier stream
        what is not known here, and would lose it if it were left out.
        """
        holdings, undo, brought = self._holdings, sent.undo, {r.name: r for r in sent.response.resources}
        fresh = brought.keys() if sent.fresh is None else sent.fresh
        named = named_in(error, brought)
        names_any = bool(named)
        if not names_any:
            # What it has accepted before is sent again for the sake of something else.
            named = [n for n, r in brought.items() if n in fresh and not (n in undo and undo[n].version == r.version)]
        parked: dict[str, Parked] = {}
        renewed: set[str] = set()
        vain: dict[str, str] = {}
        in_vain = False
        for name in [n for n in named if holdings.subscription.wants(n)]:
            refused, good = brought[name], undo.get(name)
            has = holdings.had.get(name) or holdings.has(name)
            if not isinstance(has, Resource) or has.version != refused.version:
                continue  # it has been asked for anew: what comes next takes its place
            if may_hold_more and (good is None or self._vain.get(name) == good.version):
                vain[name] = refused.version
                in_vain = True
                continue  # it may go on with an older one, as long as it is named one
            if name not in fresh or (good is not None and good.version == refused.version):
                in_vain = True
                continue  # it refuses what it had accepted before: there is nothing better to go on with
            parked[name] = Parked(refused.version, good, error[:TEXT_LIMIT], is_suspect=not names_any)
            if holdings.had.pop(name, None) is None:
                holdings.count([refused], [good] if good else [])
            elif good is None or good.field:
                renewed.add(name)
                holdings.had.update({name: good} if good else {})
        if vain or self._vain:
            self._vain = vain if takes_rest else {**self._vain, **vain}
        if not names_any:
            self._suspect(parked, alone=len(named) == 1)
            named = list(parked)
        self._keep({**self.parked, **parked})
        self._serve()
        for name, known in parked.items():
            if name in renewed:
                continue  # it is owed what it is to go on with
            holdings.kept.pop(name, None)
            # What is parked is not there to be sent; it may have it from before it asked again, and is to keep that.
            holdings.look(name, known.good or (Lacks.NEW if name in self.parked else self._telling.after_refusal))
        # A response that is the whole truth would bring again what it refuses in vain.
        if named and not takes_rest and not (in_vain and self._telling.is_whole):
            self._send_again(sent, named, nothing_taken=names_any)
        return tuple(parked)

    def _suspect(self, parked: dict[str, Parked], *, alone: bool) -> None:
        """Search for those of the parked that are refused `alone`."""
        self._tries += 1
        if alone:
            for name, known in parked.items():
                parked[name] = msgspec.structs.replace(known, is_suspect=False)
        elif parked:
            names, half = sorted(parked), len(parked) // 2
            self._suspects += (names[half:], names[:half])
        if self._tries >= TRIES:
            self._suspects = ()

    def _send_again(self, sent: Sent, named: Collection[str], *, nothing_taken: bool) -> None:
        """The rest of a response is due once more. Withdrawals may have been taken unless it is known that nothing was."""
        holdings, undo, brought = self._holdings, sent.undo, {r.name: r for r in sent.response.resources}
        wants, going_on = holdings.subscription.wants, holdings.had
        changed = brought.keys() if sent.fresh is None else brought.keys() & sent.fresh
        again = {n for n in sent.response.unknown if wants(n) and n not in holdings.pending}
        for name in (changed | (undo.keys() - brought.keys())).difference(named):
            has, had = holdings.has(name), undo.get(name)
            if name in going_on and name in brought and going_on[name].version == brought[name].version:
                del going_on[name]
                going_on.update({name: had} if had else {})
            if not wants(name) or has is Lacks.ASKED or isinstance(has, Resource) != (name in brought):
                continue  # it has been asked for anew
            if name not in brought and not (nothing_taken or self._telling.is_whole):
                again.add(name)
                continue
            holdings.kept.pop(name, None)
            if had is not None and name in brought and had.version == brought[name].version:
                holdings.count([had], ())
                going_on[name] = had
                again.add(name)
            else:
                holdings.count([has] if isinstance(has, Resource) else [], [had] if had else [])
                holdings.look(name, had or (Lacks.ASKED if name in sent.asked else self._telling.after_refusal))
        holdings.ask(again)

    def _keep(self, parked: Mapping[str, Parked]) -> frozenset[str]:
        """Park that and nothing else, as far as it has not changed; returns the names whose time to be parked is over."""
        before, resources = self.parked, self._resources
        kept: dict[str, Parked] = {}
        for name, known in parked.items():
            current = resources.get(name)
            if current is not None and current.version == known.version:
                kept[name] = known
        self.parked = kept or _NONE
        if self._suspects:
            groups = ([n for n in group if n in kept and kept[n].is_suspect] for group in self._suspects)
            self._suspects = tuple(group for group in groups if group)
        return frozenset(before.keys() - kept.keys())

    def _served(self) -> tuple[Mapping[str, Resource], SetVersion | None]:
        """What the client is served, and its version if that is known."""
        if not self.parked:
            return self._resources, self._version
        served = dict(self._resources)
        for name, known in self.parked.items():
            if known.good is None:
                del served[name]
            else:
                served[name] = known.good
        return served, None

    def _serve(self) -> None:
        self._holdings.update(*self._served(), ())


_NONE: Mapping[str, Parked] = {}
_NO_VERSIONS: Mapping[str, str] = {}
