"""A session between a model client and a real stream: messages that cross, and an auditor of what the server sends."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Received, Response
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.resource import ResourceSnapshot, SetVersion, TypeUrl
from tests.model.client import WHOLE, Client, Request, SotwClient
from tests.model.served import CDS, EDS, ORDER

WHOLLY = "Proto constraint validation failed: "
"""How an Envoy begins that takes nothing of a response for the sake of what it names."""


class Session:
    """A client, a stream, and the messages that are under way.

    The auditor keeps what was last offered by name, and takes a name off when the server has read a request that asks for it
    anew. Whatever is then offered a second time at the same version was needless.
    """

    def __init__(self, client: Client, snapshot: ResourceSnapshot) -> None:
        self.client = client
        self.now = 0.0
        self.sent: Counter[TypeUrl] = Counter()
        """Resources and removals by type, in all."""
        self.bound_ran_out = False
        self.connect(snapshot)

    def connect(self, snapshot: ResourceSnapshot) -> None:
        """A new stream; what was under way is lost."""
        self.stream = SotwStream(snapshot) if isinstance(self.client, SotwClient) else DeltaStream(snapshot)
        self.inbox: deque[Response] = deque()
        self.offered: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        self.unanswered: set[TypeUrl] = set()
        self.whole: set[TypeUrl] = set()
        """Types that are asked for as a whole."""
        self.named: set[TypeUrl] = set()
        """Types for which there have been names."""
        self.owed: dict[TypeUrl, set[str]] = {t: set() for t in ORDER}
        """Names asked for anew and not answered since."""
        self.in_flight: dict[TypeUrl, str] = {}
        self.nonces: set[str] = set()
        self.parked: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        """Versions that were refused by name; none is to be offered again unless it has changed meanwhile or is asked for."""
        self.had: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        """What was offered before the last response."""
        self.unsure: set[TypeUrl] = set()
        """Types of which the client may hold what it has not been sent on this stream: it is not to be left out when refused."""
        self.mixed: set[TypeUrl] = set()
        """Types of which it asked for names beside the whole or in its place; as above, for good."""
        self.vain: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        """What it refused without anything sure to go on with: it does not have that either."""
        self.suspects: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        """What was refused together without saying which. The client may have taken it, so nothing it had before is sure."""
        self.renewed: set[str] = set()
        """Clusters sent on this stream."""
        self.again: set[str] = set()
        """Those whose endpoints are to be sent again."""
        self.opened: dict[TypeUrl, set[str]] = {}
        self._last: dict[TypeUrl, Response] = {}
        self._owed_before: dict[TypeUrl, set[str]] = {}
        self._last_nonce: dict[TypeUrl, str] = {}
        self._snapshot = snapshot

    def update(self, snapshot: ResourceSnapshot) -> None:
        self._snapshot = snapshot
        for type_url, parked in self.parked.items():
            current = snapshot.of_type(type_url)
            for name in [n for n, v in parked.items() if n not in current or current[n].version != v]:
                del parked[name]
        for type_url, suspects in self.suspects.items():
            current, offered = snapshot.of_type(type_url), self.offered[type_url]
            for name in [n for n, v in suspects.items() if n not in current or current[n].version != v]:
                del suspects[name]
                if name not in current or current[name].version == offered.get(name):
                    offered.pop(name, None)
                    self.owed[type_url].add(name)
        self.stream.update(snapshot)
        self.pump()

    def pump(self) -> None:
        """Let the server send what is due."""
        for response in self.stream.responses(self.now):
            self._audit(response)
            self.inbox.append(response)
            self.sent[TypeUrl(response.type_url)] += len(response.resources) + len(response.removed)
        assert not self.stream.responses(self.now), "asked again, it sends more"

    def to_server(self) -> Received:
        """The server reads the client's oldest request."""
        request = self.client.outbox.popleft()
        self._expect(request)
        received = self.stream.receive(request, self.now)  # type: ignore[arg-type]
        self.pump()
        return received

    def wait(self, seconds: float) -> None:
        """Time passes."""
        wake_at = self.stream.wake_at
        self.now += seconds
        if wake_at is not None and wake_at <= self.now:
            self.bound_ran_out = True
        self.pump()

    def _expect(self, request: Request) -> None:
        """Follow, in the server's place, what a request makes due."""
        type_url = TypeUrl(request.type_url)
        nonce = request.response_nonce
        first = type_url not in self.opened
        before = self.opened.setdefault(type_url, set())
        offered = self.offered[type_url]
        if nonce and self.in_flight.get(type_url) == nonce:
            del self.in_flight[type_url]
            if request.HasField("error_detail"):
                self._expect_to_park(type_url, request.error_detail.message)
            else:
                self.unsure.discard(type_url)
                self.vain[type_url].clear()
        if isinstance(request, DiscoveryRequest):
            if nonce and nonce != self._last_nonce.get(type_url, nonce) and type_url not in self.in_flight:
                return
            names = set(request.resource_names)
            asked = names - before
            if names:
                self.named.add(type_url)
            was_whole = type_url in self.whole
            self._follow_wildcard(type_url, "*" in names or type_url not in self.named, "*" not in names)
            if first and type_url in self.whole:
                asked.add("*")
            self.opened[type_url] = names
            dropped = {n for n in before - names if not self._wants(type_url, n)}
            if first and request.version_info == self._version_of_wanted(type_url):
                offered.update(
                    (n, r.version) for n, r in self._snapshot.of_type(type_url).items() if self._wants(type_url, n)
                )
                asked.clear()
            elif first and request.version_info and type_url in WHOLE:
                self.unsure.add(type_url)
            begins_to_mix = (type_url in self.whole and asked - {"*"}) or (was_whole and type_url not in self.whole)
            if begins_to_mix and not first:
                self.mixed.add(type_url)
        else:
            asked, dropped = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
            if first and not asked and type_url in WHOLE:
                asked.add("*")
            self._follow_wildcard(type_url, "*" in asked, "*" in dropped)
            self.opened[type_url] = (before - dropped) | asked
            if first:
                offered.update(request.initial_resource_versions)
                if request.initial_resource_versions:
                    asked -= {"*", *request.initial_resource_versions}
            elif "*" in asked and type_url in WHOLE:
                offered.clear()
            if dropped and type_url in self.whole:
                self.unanswered.add(type_url)
        dropped |= {n for n in (*offered, *self.suspects[type_url]) if not self._wants(type_url, n)}
        if asked:
            self.unanswered.add(type_url)
        owed = (self.owed[type_url] - dropped) | (asked - {"*"})
        self.owed[type_url] = {n for n in owed if self._wants(type_url, n)}
        for name in asked | dropped:
            offered.pop(name, None)
            self.parked[type_url].pop(name, None)
            self.suspects[type_url].pop(name, None)
        if "*" in asked:
            self.parked[type_url].clear()
            self.suspects[type_url].clear()
        if first and type_url == EDS:
            self.again |= self.renewed

    def new_in(self, response: Response) -> list[str]:
        """What the last response of its type adds or changes."""
        had = self.had[TypeUrl(response.type_url)]
        return [r.name for r in response.resources if had.get(r.name) != r.version]

    def is_in_vain(self, response: Response, name: str) -> bool:
        """Whether a client that refuses a name may get it again with the rest, in a response that is the whole truth."""
        type_url = TypeUrl(response.type_url)
        if self.client.variant == "delta" or type_url not in WHOLE:
            return False
        had, version = self._sure(type_url), next(r.version for r in response.resources if r.name == name)
        is_sure = name in had or type_url not in self.unsure | self.mixed
        return had.get(name) == version or not is_sure or bool(self.client.outbox)

    def _sure(self, type_url: TypeUrl) -> dict[str, str]:
        """What it had before the last response, as far as it did not refuse that."""
        return {n: v for n, v in self.had[type_url].items() if self.vain[type_url].get(n) != v}

    def _expect_again(self, type_url: TypeUrl, named: Collection[str], *, is_sure: bool) -> None:
        """Nothing of the last response was taken: what the names do not concern is due as it was before."""
        had, offered, last = self.had[type_url], self.offered[type_url], self._last[type_url]
        for name in {r.name for r in last.resources} & offered.keys() - set(named):
            if name in had and had[name] == offered[name]:
                if type_url == EDS:
                    self.again.add(name)
            elif name in had:
                offered[name] = had[name]
            else:
                del offered[name]
        gone = set(last.removed) if self.client.variant == "delta" else had.keys() - {r.name for r in last.resources}
        # Without a name it is not known whether removals were taken.
        for name in gone & had.keys() - offered.keys() - self.owed[type_url] if is_sure else ():
            if self._wants(type_url, name):
                offered[name] = had[name]
        self.owed[type_url] |= {n for n in self._owed_before[type_url] - set(named) if self._wants(type_url, n)}

    def _expect_to_park(self, type_url: TypeUrl, error: str) -> None:
        had, offered = self._sure(type_url), self.offered[type_url]
        current = self._snapshot.of_type(type_url)
        named = error.partition(": ")[2].split()
        unsure = type_url in self.unsure | self.mixed
        brought = {r.name: r.version for r in self._last[type_url].resources}
        vain = {n: v for n, v in brought.items() if unsure and n in (named or brought) and n not in had}
        self.vain[type_url] = vain if named and not error.startswith(WHOLLY) else self.vain[type_url] | vain
        # What it had before it refuses in vain: it keeps that.
        refused = {
            n: v
            for n in named or [r.name for r in self._last[type_url].resources]
            if (v := offered.get(n)) and had.get(n) != v and (n in had or not unsure)
        }
        if error.startswith(WHOLLY) or (refused and not named):
            self._expect_again(type_url, named or refused, is_sure=bool(named) or self.client.variant == "sotw")
        for name, version in refused.items():
            del offered[name]
            if name in had:
                offered[name] = had[name]
            # One of several that is not named is offered again, with others or alone.
            if name in current and current[name].version == version:
                alone = named or len(self.new_in(self._last[type_url])) == 1
                (self.parked if alone else self.suspects)[type_url][name] = version

    def check_answered(self) -> None:
        """With nothing under way, whatever was asked for has been answered, if only by its absence where that can be told."""
        for type_url, names in self.owed.items():
            silent = isinstance(self.client, SotwClient) and type_url not in WHOLE
            owed = names & self._snapshot.of_type(type_url).keys() if silent else names
            assert not owed, f"never answered: {type_url.short} {sorted(owed)}"

    def _follow_wildcard(self, type_url: TypeUrl, begins: bool, ends: bool) -> None:
        if type_url in WHOLE and begins:
            self.whole.add(type_url)
        elif ends:
            self.whole.discard(type_url)

    def _wants(self, type_url: TypeUrl, name: str) -> bool:
        return type_url in self.whole or name in self.opened[type_url]

    def _version_of_wanted(self, type_url: TypeUrl) -> str:
        return str(SetVersion.of(r for n, r in self._snapshot.of_type(type_url).items() if self._wants(type_url, n)))

    def _audit(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        assert type_url in self.opened, f"unsolicited: {response}"
        assert type_url not in self.in_flight, f"two in flight: {response}"
        assert response.nonce not in self.nonces, f"a nonce twice: {response}"
        names = [r.name for r in response.resources]
        assert len({*names, *response.removed}) == len(names) + len(response.removed), f"a name twice: {response}"
        assert all(self._wants(type_url, n) for n in names), f"not asked for: {response}"
        self.nonces.add(response.nonce)
        self.in_flight[type_url] = self._last_nonce[type_url] = response.nonce
        offered, got = self.offered[type_url], {r.name: r.version for r in response.resources}
        before = self.had[type_url] = dict(offered)
        for name, version in got.items():
            assert self.parked[type_url].get(name) != version, f"refused, and offered again: {name} in {response}"
            if self.suspects[type_url].get(name) == version:
                del self.suspects[type_url][name]
        whole = isinstance(self.client, SotwClient) and type_url in WHOLE
        self._last[type_url], self._owed_before[type_url] = response, set(self.owed[type_url])
        unanswered = type_url in self.unanswered
        self.unanswered.discard(type_url)
        self.owed[type_url] -= self.owed[type_url] if whole else {*names, *response.removed}
        if whole:
            assert unanswered or self._owed_before[type_url] or got != offered, f"nothing new: {response}"
            self.offered[type_url] = got
        else:
            assert unanswered or got or response.removed, f"empty: {response}"
            again = {n for n, v in got.items() if offered.get(n) == v}
            if type_url == EDS:
                again -= self.again
                self.again -= {*got, *response.removed}
            assert not again, f"sent again: {again} in {response}"
            offered.update(got)
            for name in response.removed:
                offered.pop(name, None)
        if isinstance(self.client, SotwClient):
            having = SetVersion()
            for name, version in self.offered[type_url].items():
                having = having.replace(name, None, version)
            assert response.version == str(having), f"not the version of what it now has: {response}"
        if type_url == CDS:  # the endpoints of what is new or changed must be sent again
            for name, version in got.items():
                if not whole or before.get(name) != version:
                    self.renewed.add(name)
                    if EDS in self.opened:
                        self.again.add(name)
