"""Model clients, and a session between one of them and a real stream in which messages cross.

They are written from the protocol's text and share nothing with the machines under test but the values that are exchanged.
"""

from __future__ import annotations

import abc
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.rpc.status_pb2 import Status

from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Received, Response
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.resource import Resource, ResourceSnapshot, SetVersion, TypeUrl
from tests.model.served import CDS, EDS, LDS, ORDER

WHOLE = (CDS, LDS)
Request = DiscoveryRequest | DeltaDiscoveryRequest


class Client(abc.ABC):
    """What a client holds of each type, and the requests it has yet to send."""

    variant: str

    def __init__(self) -> None:
        self.outbox: deque[Request] = deque()
        self.held: dict[TypeUrl, dict[str, Resource]] = {t: {} for t in ORDER}
        self.names: dict[TypeUrl, set[str]] = {t: set() for t in ORDER}
        self.wildcard: dict[TypeUrl, bool] = dict.fromkeys(ORDER, False)
        self.opened: set[TypeUrl] = set()
        self.refused: set[TypeUrl] = set()
        """Types whose last response was refused."""
        self.refused_names: dict[TypeUrl, set[str]] = {t: set() for t in ORDER}
        """Names that it holds in an older state, or not, because it refused the last one offered."""
        self.nonce: dict[TypeUrl, str] = dict.fromkeys(ORDER, "")

    def wants(self, type_url: TypeUrl, name: str) -> bool:
        return self.wildcard[type_url] or name in self.names[type_url]

    @abc.abstractmethod
    def open(self, type_url: TypeUrl, names: Iterable[str]) -> None:
        """First request of a type on a stream; no names mean everything, where that is possible."""

    @abc.abstractmethod
    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        """Ask for other names; "*" is everything. Bears the last nonce that was received."""

    @abc.abstractmethod
    def take(self, response: Response) -> None:
        """Apply a response."""

    @abc.abstractmethod
    def refuse(self, response: Response) -> None:
        """Keep what it holds, but for what a delta response removes."""

    def check(self, resources: Mapping[TypeUrl, Mapping[str, Resource]]) -> None:
        """It holds what it asked for as it is, all of it and where the protocol can say so nothing else."""
        for type_url in self.opened:
            wanted = {n: r for n, r in resources[type_url].items() if self.wants(type_url, n)}
            held = self.held[type_url]
            names = wanted.keys() | held.keys() if type_url in WHOLE or self.variant == "delta" else wanted.keys()
            for name in names - self.refused_names[type_url]:
                assert held.get(name) == wanted.get(name), f"{self.variant} {type_url.short} {name}"

    @abc.abstractmethod
    def answer(self, response: Response, error: str = "", add: Iterable[str] = ()) -> None:
        """Acknowledge it, or refuse it with a text, and ask for more in the same request."""

    def reopen(self) -> None:
        """A new stream: ask again for the same, saying what is held."""
        opened, self.opened = self.opened, set()
        self.refused.clear()
        self.refused_names = {t: set() for t in ORDER}
        self.outbox.clear()
        self.nonce = dict.fromkeys(ORDER, "")
        for type_url in ORDER:
            if type_url in opened:
                self._reopen(type_url)

    @abc.abstractmethod
    def can_show(self, type_url: TypeUrl) -> bool:
        """Whether its requests tell a new stream that it has what it holds."""

    @abc.abstractmethod
    def _reopen(self, type_url: TypeUrl) -> None: ...

    def _settled(self, response: Response, error: str) -> None:
        type_url = TypeUrl(response.type_url)
        self.nonce[type_url] = response.nonce
        if error:
            self.refused.add(type_url)
        else:
            self.refused.discard(type_url)

    def _forget_unwanted(self, type_url: TypeUrl) -> None:
        held = self.held[type_url]
        self.held[type_url] = {n: r for n, r in held.items() if self.wants(type_url, n)}


class SotwClient(Client):
    variant = "sotw"

    def __init__(self) -> None:
        super().__init__()
        self.version: dict[TypeUrl, str] = dict.fromkeys(ORDER, "")
        self._listed: dict[TypeUrl, set[str]] = {t: set() for t in ORDER}
        self._ever_named: set[TypeUrl] = set()

    def open(self, type_url: TypeUrl, names: Iterable[str]) -> None:
        self.change(type_url, names)

    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        listed = (self._listed[type_url] - set(drop)) | set(add)
        self._listed[type_url] = listed
        if listed:
            self._ever_named.add(type_url)
        self.names[type_url] = listed - {"*"}
        self.wildcard[type_url] = type_url in WHOLE and ("*" in listed or type_url not in self._ever_named)
        self._forget_unwanted(type_url)
        self._request(type_url)

    def take(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        got = {r.name: r for r in response.resources if self.wants(type_url, r.name)}
        self.held[type_url] = got if type_url in WHOLE else self.held[type_url] | got
        self.refused_names[type_url] -= self.refused_names[type_url] if type_url in WHOLE else got.keys()

    def refuse(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        names = {r.name for r in response.resources}
        self.refused_names[type_url] |= names | self.held[type_url].keys() if type_url in WHOLE else names

    def answer(self, response: Response, error: str = "") -> None:
        self._settled(response, error)
        type_url = TypeUrl(response.type_url)
        if not error:
            self.version[type_url] = response.version
        self._request(type_url, error)

    def can_show(self, type_url: TypeUrl) -> bool:
        # Dropping a name is not answered, so the version may still be that of a longer list.
        return self.version[type_url] == str(SetVersion.of(self.held[type_url].values()))

    def _reopen(self, type_url: TypeUrl) -> None:
        if not self.can_show(type_url):
            self.version[type_url] = ""
        if not self._listed[type_url]:
            self._ever_named.discard(type_url)
            self.wildcard[type_url] = type_url in WHOLE
        self._request(type_url)

    def _request(self, type_url: TypeUrl, error: str = "") -> None:
        self.opened.add(type_url)
        self.outbox.append(
            DiscoveryRequest(
                type_url=type_url,
                resource_names=sorted(self._listed[type_url]),
                version_info=self.version[type_url],
                response_nonce=self.nonce[type_url],
                error_detail=Status(message=error) if error else None,
            )
        )


class DeltaClient(Client):
    variant = "delta"

    def open(self, type_url: TypeUrl, names: Iterable[str]) -> None:
        self.change(type_url, names)

    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        add, drop = set(add), set(drop)
        legacy = type_url not in self.opened and not add
        if type_url in WHOLE:
            self.wildcard[type_url] = "*" in add or legacy or (self.wildcard[type_url] and "*" not in drop)
        self.names[type_url] = (self.names[type_url] - drop) | (add - {"*"})
        self._forget_unwanted(type_url)
        self._request(type_url, add, drop - add)

    def take(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        held = self.held[type_url]
        held.update({r.name: r for r in response.resources if self.wants(type_url, r.name)})
        self.refused_names[type_url] -= {r.name for r in response.resources}
        self._remove(response)

    def refuse(self, response: Response) -> None:
        self.refused_names[TypeUrl(response.type_url)] |= {r.name for r in response.resources}
        self._remove(response)

    def _remove(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        for name in response.removed:
            self.held[type_url].pop(name, None)
        self.refused_names[type_url] -= set(response.removed)

    def answer(self, response: Response, error: str = "") -> None:
        self._settled(response, error)
        type_url = TypeUrl(response.type_url)
        self.outbox.append(
            DeltaDiscoveryRequest(
                type_url=type_url,
                response_nonce=response.nonce,
                error_detail=Status(message=error) if error else None,
            )
        )

    def can_show(self, type_url: TypeUrl) -> bool:
        return True

    def _reopen(self, type_url: TypeUrl) -> None:
        names = set(self.names[type_url])
        if not names and not self.wildcard[type_url]:
            return  # to ask for nothing would mean everything
        if self.wildcard[type_url] and names:
            names.add("*")
        self._request(type_url, names, (), held=True)

    def _request(self, type_url: TypeUrl, add: Iterable[str], drop: Iterable[str], held: bool = False) -> None:
        self.opened.add(type_url)
        self.outbox.append(
            DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=sorted(add),
                resource_names_unsubscribe=sorted(drop),
                initial_resource_versions={n: r.version for n, r in self.held[type_url].items()} if held else {},
            )
        )


class Session:
    """A client and a stream, with the messages that are under way, and an auditor of what the server sends.

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
        self.owed: dict[TypeUrl, set[str]] = {t: set() for t in ORDER}
        """Names asked for anew and not answered since."""
        self.in_flight: dict[TypeUrl, str] = {}
        self.nonces: set[str] = set()
        self.renewed: set[str] = set()
        """Clusters sent on this stream."""
        self.opened: dict[TypeUrl, set[str]] = {}
        self._last_nonce: dict[TypeUrl, str] = {}
        self._snapshot = snapshot

    def update(self, snapshot: ResourceSnapshot) -> None:
        self._snapshot = snapshot
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
        if isinstance(request, DiscoveryRequest):
            if nonce and nonce != self._last_nonce.get(type_url, nonce) and type_url not in self.in_flight:
                return
            names = set(request.resource_names)
            asked = names - before
            self.opened[type_url] = names
            if first and type_url in WHOLE and not names:
                asked.add("*")
            wanted = [
                r for n, r in self._snapshot.of_type(type_url).items() if self.client_wants(type_url, first, names, n)
            ]
            if first and request.version_info == str(SetVersion.of(wanted)):
                offered.update((r.name, r.version) for r in wanted)
                asked.clear()
            dropped = before - names
            if "*" in dropped or (names and not (first or before or "*" in names)):
                dropped |= offered.keys() - names
        else:
            asked, dropped = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
            if first:
                offered.update(request.initial_resource_versions)
                if not asked and type_url in WHOLE:
                    asked.add("*")
                if request.initial_resource_versions:
                    asked -= {"*", *request.initial_resource_versions}
            elif "*" in asked:
                offered.clear()
            covered = bool(dropped) and type_url in WHOLE
            if "*" in dropped:
                dropped |= offered.keys() - before
            self.opened[type_url] = (before - dropped) | asked
            if covered:
                self.unanswered.add(type_url)
        if asked:
            self.unanswered.add(type_url)
        self.owed[type_url] = (self.owed[type_url] - dropped) | (asked - {"*"})
        for name in asked | dropped:
            offered.pop(name, None)
        if first and type_url == EDS:
            for name in self.renewed:
                offered.pop(name, None)

    def check_answered(self) -> None:
        """With nothing under way, whatever was asked for has been answered, if only by its absence where that can be told."""
        for type_url, names in self.owed.items():
            silent = isinstance(self.client, SotwClient) and type_url not in WHOLE
            owed = names & self._snapshot.of_type(type_url).keys() if silent else names
            assert not owed, f"never answered: {type_url.short} {sorted(owed)}"

    def client_wants(self, type_url: TypeUrl, first: bool, names: set[str], name: str) -> bool:
        return name in names or (type_url in WHOLE and ("*" in names or (first and not names)))

    def _audit(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        assert type_url in self.opened, f"unsolicited: {response}"
        assert type_url not in self.in_flight, f"two in flight: {response}"
        assert response.nonce not in self.nonces, f"a nonce twice: {response}"
        names = [r.name for r in response.resources]
        assert len({*names, *response.removed}) == len(names) + len(response.removed), f"a name twice: {response}"
        self.nonces.add(response.nonce)
        self.in_flight[type_url] = self._last_nonce[type_url] = response.nonce
        offered, got = self.offered[type_url], {r.name: r.version for r in response.resources}
        before = dict(offered)
        whole = isinstance(self.client, SotwClient) and type_url in WHOLE
        unanswered = type_url in self.unanswered
        self.unanswered.discard(type_url)
        self.owed[type_url] -= self.owed[type_url] if whole else {*names, *response.removed}
        if whole:
            assert unanswered or got != offered, f"nothing new: {response}"
            self.offered[type_url] = got
        else:
            assert unanswered or got or response.removed, f"empty: {response}"
            again = {n for n, v in got.items() if offered.get(n) == v}
            assert not again, f"sent again: {again} in {response}"
            offered.update(got)
            for name in response.removed:
                offered.pop(name, None)
        if type_url == CDS:  # the endpoints of what is new or changed must be sent again
            for name, version in got.items():
                if not whole or before.get(name) != version:
                    self.offered[EDS].pop(name, None)
                    self.renewed.add(name)
