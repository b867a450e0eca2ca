"""Model clients of both variants.

They are written from the protocol's text and share nothing with the machines under test but the values that are exchanged.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.rpc.status_pb2 import Status

from isthmus.xds.protocol.response import Response
from isthmus.xds.resource import Resource, SetVersion, TypeUrl
from tests.model.served import CDS, LDS, ORDER

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
        self.refused_versions: dict[TypeUrl, dict[str, str]] = {t: {} for t in ORDER}
        """What it refused by name: it goes on with what it had until another version is there."""
        self.nonce: dict[TypeUrl, str] = dict.fromkeys(ORDER, "")

    def wants(self, type_url: TypeUrl, name: str) -> bool:
        return self.wildcard[type_url] or name in self.names[type_url]

    def open(self, type_url: TypeUrl, names: Iterable[str]) -> None:
        """First request of a type; no names mean everything, where that is possible."""
        self.change(type_url, names)

    def _try_again(self, type_url: TypeUrl, names: Iterable[str]) -> None:
        """What it asks for anew it may be sent again."""
        everything = type_url in WHOLE and "*" in names
        for name in list(self.refused_versions[type_url]) if everything else names:
            self.refused_versions[type_url].pop(name, None)

    @property
    def lacks_any(self) -> bool:
        """Whether it has refused anything that it may not have got since."""
        return any((*self.refused_names.values(), *self.refused_versions.values()))

    @abc.abstractmethod
    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        """Ask for other names; "*" is everything."""

    @abc.abstractmethod
    def take(self, response: Response) -> None:
        """Apply a response."""

    def refuse(self, response: Response, new: Collection[str]) -> None:
        """Keep what it holds, but for what a delta response removes. What was `new` in it, if that is one thing, is refused."""
        type_url = TypeUrl(response.type_url)
        if len(new) == 1:
            self.refused_versions[type_url] |= {r.name: r.version for r in response.resources if r.name in new}
        self._refuse(response)

    @abc.abstractmethod
    def _refuse(self, response: Response) -> None: ...

    def may_refuse(self, response: Response) -> list[str]:
        """The names in a response under which it does not hold just that already."""
        held = self.held[TypeUrl(response.type_url)]
        return [r.name for r in response.resources if held.get(r.name) != r]

    def refuse_some(self, response: Response, names: Iterable[str]) -> None:
        """Keep what it holds under some of the names in a response, and apply the rest (gRFC A46)."""
        type_url = TypeUrl(response.type_url)
        held = dict(self.held[type_url])
        doubtful = self.refused_names[type_url] & set(names)
        self.take(response)
        self.refused_names[type_url] |= doubtful
        versions = {r.name: r.version for r in response.resources}
        for name in names:
            self.refused_versions[type_url][name] = versions[name]
            self.held[type_url].pop(name, None)
            if name in held and self.wants(type_url, name):
                self.held[type_url][name] = held[name]

    def refuse_for(self, response: Response, name: str) -> None:
        """Take nothing of a response, not even removals, for the sake of one name in it."""
        type_url = TypeUrl(response.type_url)
        self.refused_versions[type_url][name] = next(r.version for r in response.resources if r.name == name)

    def check(self, resources: Mapping[TypeUrl, Mapping[str, Resource]]) -> None:
        """It holds what it asked for as it is, all of it and where the protocol can say so nothing else."""
        for type_url in self.opened:
            wanted = {n: r for n, r in resources[type_url].items() if self.wants(type_url, n)}
            held = self.held[type_url]
            names = wanted.keys() | held.keys() if type_url in WHOLE or self.variant == "delta" else wanted.keys()
            refused = {n for n, v in self.refused_versions[type_url].items() if n in wanted and wanted[n].version == v}
            for name in names - self.refused_names[type_url] - refused:
                assert held.get(name) == wanted.get(name), f"{self.variant} {type_url.short} {name}"

    @abc.abstractmethod
    def answer(self, response: Response, error: str = "", add: Iterable[str] = ()) -> None:
        """Acknowledge it, or refuse it with a text, and ask for more in the same request."""

    def reopen(self) -> None:
        """A new stream: ask again for the same, saying what is held."""
        opened, self.opened = self.opened, set()
        self.refused.clear()
        self.refused_names = {t: set() for t in ORDER}
        self.refused_versions = {t: {} for t in ORDER}
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

    def _offer(self, type_url: TypeUrl, got: Mapping[str, Resource]) -> None:
        """What is offered again has changed since it was refused, or was asked for anew, or is what it had.

        The server takes it to have what it has refused without saying so of each name, and may offer that to go on with.
        """
        refused, doubtful = self.refused_versions[type_url], self.refused_names[type_url]
        for name, resource in got.items():
            is_other = name not in doubtful and resource != self.held[type_url].get(name)
            if refused.get(name) == resource.version or is_other:
                refused.pop(name, None)

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

    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        self._list(type_url, add, drop)
        self._request(type_url)

    def _list(self, type_url: TypeUrl, add: Iterable[str], drop: Iterable[str]) -> None:
        listed = (self._listed[type_url] - set(drop)) | set(add)
        asked = listed - self._listed[type_url]
        self._try_again(type_url, asked - {"*"} if self.wildcard[type_url] else asked)
        self._listed[type_url] = listed
        if listed:
            self._ever_named.add(type_url)
        self.names[type_url] = listed - {"*"}
        self.wildcard[type_url] = type_url in WHOLE and ("*" in listed or type_url not in self._ever_named)
        self._forget_unwanted(type_url)

    def take(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        got = {r.name: r for r in response.resources if self.wants(type_url, r.name)}
        self._offer(type_url, got)
        self.held[type_url] = got if type_url in WHOLE else self.held[type_url] | got
        self.refused_names[type_url] -= self.refused_names[type_url] if type_url in WHOLE else got.keys()

    def _refuse(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        names = {r.name for r in response.resources}
        self.refused_names[type_url] |= names | self.held[type_url].keys() if type_url in WHOLE else names

    def answer(self, response: Response, error: str = "", add: Iterable[str] = ()) -> None:
        self._settled(response, error)
        type_url = TypeUrl(response.type_url)
        if not error:
            self.version[type_url] = response.version
        if add:
            self._list(type_url, add, ())
        self._request(type_url, error)

    def can_show(self, type_url: TypeUrl) -> bool:
        # Dropping a name is not answered, so the version may still be that of a longer list.
        return self.version[type_url] == str(SetVersion.of(self.held[type_url].values()))

    def _reopen(self, type_url: TypeUrl) -> None:
        if not self.version[type_url]:
            self.held[type_url].clear()  # as after a restart: nobody could tell that it has anything
        elif not self.can_show(type_url):
            self.version[type_url] = "of another list"
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
    repeats_nonces = False
    """Whether it bears the last nonce also when it asks for more; it may be stale by then."""

    def change(self, type_url: TypeUrl, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
        add, drop = set(add), set(drop)
        self._try_again(type_url, add)
        legacy = type_url not in self.opened and not add
        if type_url in WHOLE:
            self.wildcard[type_url] = "*" in add or legacy or (self.wildcard[type_url] and "*" not in drop)
        self.names[type_url] = (self.names[type_url] - drop) | (add - {"*"})
        self._forget_unwanted(type_url)
        self._request(type_url, add, drop - add, nonce=self.nonce[type_url] if self.repeats_nonces else "")

    def take(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        held = self.held[type_url]
        got = {r.name: r for r in response.resources if self.wants(type_url, r.name)}
        self._offer(type_url, got)
        held.update(got)
        self.refused_names[type_url] -= {r.name for r in response.resources}
        self._remove(response)

    def _refuse(self, response: Response) -> None:
        self.refused_names[TypeUrl(response.type_url)] |= {r.name for r in response.resources}
        self._remove(response)

    def _remove(self, response: Response) -> None:
        type_url = TypeUrl(response.type_url)
        for name in response.removed:
            self.held[type_url].pop(name, None)
        self.refused_names[type_url] -= set(response.removed)

    def answer(self, response: Response, error: str = "", add: Iterable[str] = ()) -> None:
        self._settled(response, error)
        type_url = TypeUrl(response.type_url)
        self.names[type_url] |= set(add)
        self._try_again(type_url, add)
        self._request(type_url, add, (), nonce=response.nonce, error=error)

    def can_show(self, type_url: TypeUrl) -> bool:
        return True

    def _reopen(self, type_url: TypeUrl) -> None:
        names = set(self.names[type_url])
        if not names and not self.wildcard[type_url]:
            return  # to ask for nothing would mean everything
        if self.wildcard[type_url] and names:
            names.add("*")
        held = {n: r.version for n, r in self.held[type_url].items()}
        self._request(type_url, names, (), held=held)

    def _request(
        self,
        type_url: TypeUrl,
        add: Iterable[str],
        drop: Iterable[str],
        *,
        held: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str = "",
    ) -> None:
        self.opened.add(type_url)
        self.outbox.append(
            DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=sorted(add),
                resource_names_unsubscribe=sorted(drop),
                initial_resource_versions=held or {},
                response_nonce=nonce,
                error_detail=Status(message=error) if error else None,
            )
        )
