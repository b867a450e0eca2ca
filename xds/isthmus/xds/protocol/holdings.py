"""What a client is taken to have of one type, and where it is behind.

Theory of operation. The client is taken to have everything that it wants as it is served now, but for the names in `pending`:
there stands what it has instead. So a client that is up to date costs a pointer to what is served, whatever it has asked for,
and a change costs what it touches: when a resource, a subscription or a debt changes, the names concerned are looked at again.
A name that is *owed* an answer whatever was sent before (newly asked for, asked for again, an assignment whose cluster has
changed) stands there as ASKED. A response empties `pending`, in whole or but for withdrawals that must wait.

Three rules follow without further bookkeeping. Versions that come and go while a response is in flight are never sent: only the
difference at the time of sending counts. A refused resource has been sent, so it is not sent again until its content changes or
it is asked for anew. A client that asked for what does not exist is still subscribed: when it appears, it differs.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping

import msgspec

from isthmus.xds.protocol.subscription import Shift, Subscription
from isthmus.xds.resource import Resource, SetVersion, TypeUrl


class Lacks(enum.Enum):
    """Why a client that wants a name has nothing under it that would count."""

    NEW = "new"
    """It has appeared. Should it vanish before it is sent, nobody need know."""
    ASKED = "asked"
    """It was asked for, and is owed an answer, be it that it does not exist."""


Has = Resource | Lacks


class Telling(msgspec.Struct, frozen=True):
    """What can be told of one type in one variant of the protocol."""

    removal: bool
    """That what the client has is gone."""
    absence: bool
    """That what the client asked for does not exist."""
    is_whole: bool
    """A response is the whole truth: what it leaves out is gone."""
    after_refusal: Lacks
    """What a client lacks that has refused a name and was not known to have had it before."""
    counts: bool
    """The version of a response is that of all that the client then has."""


class Holdings:
    """What one client has of one type. `version` is that of all that is served; None: it is not known."""

    __slots__ = ("_telling", "_version", "afresh", "had", "kept", "pending", "served", "subscription", "total")

    def __init__(
        self, subscription: Subscription, telling: Telling, served: Mapping[str, Resource], version: SetVersion | None
    ) -> None:
        self.subscription = subscription
        self.served = served
        self.pending: dict[str, Has] = {}
        self.afresh = False
        """The client wants everything and has nothing yet: as if each name were in `pending`."""
        self.kept: dict[str, Resource] = {}
        """What the client still has though it is gone, since it cannot be told."""
        self.had: dict[str, Resource] = {}
        """What the client goes on with until it has what it is owed, where it has not asked for that itself."""
        self.total = SetVersion()
        """The version of what the client has, in a variant that counts it."""
        self._telling = telling
        self._version = version

    @property
    def adds(self) -> bool:
        """Whether anything is to be sent that the client does not have or is owed."""
        if self.afresh and self.served:
            return True
        return any(isinstance(has, Lacks) and name in self.served for name, has in self.pending.items())

    def withdrawals(self) -> list[str]:
        """The names that are gone while the client has them."""
        return [n for n, has in self.pending.items() if n not in self.served and isinstance(has, Resource)]

    def denials(self) -> list[str]:
        """The names that are owed an answer and do not exist, in order."""
        return sorted(n for n, has in self.pending.items() if has is Lacks.ASKED and n not in self.served)

    def asked(self, names: Iterable[str]) -> frozenset[str]:
        """Which of the names are owed an answer, where a response is the whole truth and names are asked for."""
        if not self._telling.is_whole or not self.subscription.names or self.afresh:
            return _NOBODY
        return frozenset(n for n in names if self.pending.get(n) is Lacks.ASKED)

    def has(self, name: str) -> Has | None:
        """What the client has under a name that it wants, or why nothing; None: there is nothing to have."""
        return self.pending.get(name) or self.served.get(name) or self.kept.get(name)

    def sent(self, name: str) -> Resource | None:
        """What the client was last sent under a name, unless it is owed another answer."""
        if self.afresh or not self.subscription.wants(name):
            return None
        has = self.has(name)
        return has if isinstance(has, Resource) else None

    def update(
        self,
        served: Mapping[str, Resource],
        version: SetVersion | None,
        changed: Iterable[str],
        unparked: Collection[str] = (),
    ) -> None:
        """Serve other resources, which differ in what has changed; `unparked` is what the client has refused before."""
        before, self.served, self._version = self.served, served, version
        if self.afresh:
            return
        # All may have changed: what most names go through stands here, instead of being looked at one by one.
        wildcard, names, pending, kept = self.subscription.wildcard, self.subscription.names, self.pending, self.kept
        for name in changed:
            if wildcard or name in names:
                has, current = before.get(name), served.get(name)
                if has is None or current is None or name in pending:
                    lacks = self._telling.after_refusal if name in unparked else Lacks.NEW
                    self.look(name, pending.get(name) or has or kept.pop(name, None) or lacks)
                elif has.version != current.version:
                    pending[name] = has

    def send(self, fresh: Collection[str], denied: Collection[str], gone: Collection[str]) -> dict[str, Resource]:
        """The client is sent what is added or changed, not there, and withdrawn; returns what it has had of that before."""
        served, pending = self.served, self.pending
        if self.afresh:
            pending.clear()
            self.afresh = False
            self.count_all()
            return {}
        undo = {n: has for n in (*fresh, *gone) if isinstance(has := pending[n], Resource)}
        if len(fresh) == len(pending):
            pending.clear()
        for name in (*fresh, *denied, *gone) if pending else ():
            del pending[name]
        if self._is_version_known:
            self.count_all()
        else:
            self.count(undo.values(), [served[n] for n in fresh])
        if self.had:
            undo |= {n: self.had.pop(n) for n in (*fresh, *denied) if n in self.had}
        return undo

    def owe(self, names: Collection[str]) -> None:
        """Owe an answer for each of the names, whatever was sent before."""
        self.count([r for n in names if (r := self.sent(n))], ())
        for name in names if self.kept else ():
            self.kept.pop(name, None)
        self.ask(names)

    def renew(self, names: Iterable[str]) -> None:
        """Owe each of the names once more to a client that goes on with what it has until then."""
        # Of what a client was left with from an earlier stream nothing but the version is known: it cannot be sent.
        names = {n for n in names if (r := self.served.get(n)) is None or r.field}
        had = {n: r for n in names if (r := self.sent(n))}
        self.owe(names)
        self.had |= had

    def ask(self, names: Iterable[str]) -> None:
        """Owe an answer for names under which nothing counts that the client has."""
        if self._telling.absence:
            self.pending |= dict.fromkeys(names, Lacks.ASKED)
            return
        for name in names:
            self.look(name, Lacks.ASKED)

    def look(self, name: str, has: Has) -> None:
        """Compare what the client has under a name that it wants with what is served."""
        current = self.served.get(name)
        if current is None:
            telling = self._telling
            keep = telling.absence if has is Lacks.ASKED else has is not Lacks.NEW and telling.removal
            if isinstance(has, Resource) and not keep:
                self.kept[name] = has
        else:
            keep = isinstance(has, Lacks) or has.version != current.version
        if keep:
            self.pending[name] = has
        else:
            self.pending.pop(name, None)

    def give_up(self, shift: Shift) -> None:
        """Follow what a request gives up."""
        wants = self.subscription.wants
        if self.had:
            self.had = {n: r for n, r in self.had.items() if wants(n) and n not in shift.asked}
        if shift.narrowed:
            self.afresh = False
            self.pending = {n: has for n, has in self.pending.items() if wants(n)}
            self.kept = {n: r for n, r in self.kept.items() if wants(n)}
            self.count_all()
        for name in shift.dropped:
            has = self.has(name)
            self.count([has] if isinstance(has, Resource) else [], ())
            self.pending.pop(name, None)
            self.kept.pop(name, None)

    def take_up(
        self, shift: Shift, held: Mapping[str, str], under_way: Iterable[Resource], *, first: bool = False
    ) -> None:
        """Follow what a request asks for. `held` is what the client kept from an earlier stream: versions by name.

        `under_way` is what the response in flight brings; the request may be older than that, unless it is the `first`.
        """
        if shift.repeated:
            self.owe(self.served.keys() | self.pending.keys())
        if shift.widened:
            self.afresh = first and not held and not self.subscription.names
            if not self.afresh:
                self._widen(shift.before | held.keys(), under_way)
        knew_all = (self.subscription.wildcard and not shift.widened) or shift.narrowed
        known = shift.asked if knew_all else shift.asked & shift.before
        self.owe(known)
        self.ask(shift.asked - known)
        for name, version in held.items():
            # Of what a client holds from earlier nothing but the version is known, nor is more needed.
            if self.subscription.wants(name):
                self.look(name, self._held(name, version))

    def _widen(self, known: Collection[str], under_way: Iterable[Resource]) -> None:
        """Everything is wanted from now on; of the names that are known it has been noted what the client has."""
        for name in self.served:
            if name not in known:
                self.look(name, Lacks.NEW)
        # A client that left the wildcard and came back may or may not keep what reaches it only now.
        for resource in under_way:
            if resource.name not in known:
                self.look(resource.name, Lacks.ASKED)
        self.count_all()

    def _held(self, name: str, version: str) -> Resource:
        current = self.served.get(name)
        if current is not None and current.version == version:
            return current
        return Resource(TypeUrl.CLUSTER, name, version, b"", 0)  # whatever the type: see above

    def has_all(self, version: str) -> bool:
        """Whether a client that comes back with a version has all that it would be sent."""
        self.count_all()
        if version == str(self.total):
            return True
        self.total = SetVersion()
        return False

    @property
    def _is_version_known(self) -> bool:
        """Whether the client has just what is served, of which the version is known."""
        return self._version is not None and self.subscription.wildcard and not self.pending

    def count(self, before: Iterable[Resource], after: Iterable[Resource]) -> None:
        """Note that the client has other resources from now on, in place of some."""
        if self._telling.counts:
            self.total = self.total.replaced(before, after)

    def count_all(self) -> None:
        """Note that what the client has is known anew."""
        if not self._telling.counts:
            return
        if self._version is not None and self._is_version_known:
            self.total = self._version
            return
        names = self.served.keys() | self.pending.keys() if self.subscription.wildcard else self.subscription.names
        self.total = SetVersion.of(r for n in names if isinstance(r := self.has(n), Resource))


_NOBODY: frozenset[str] = frozenset()
