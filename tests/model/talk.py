"""A short conversation with one stream, for tests that follow it message by message."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.rpc.status_pb2 import Status

from isthmus.xds.group import Kind
from isthmus.xds.protocol.delta import DeltaStream
from isthmus.xds.protocol.response import Outcome, Received, Response
from isthmus.xds.protocol.sotw import SotwStream
from isthmus.xds.resource import TypeUrl
from tests.model.served import World


class Talk:
    """What both variants have in common: a world, a clock that stands still, and the last response of each type."""

    def __init__(self, stream: SotwStream | DeltaStream, world: World) -> None:
        self.stream = stream
        self.world = world
        self.now = 100.0
        self.last: dict[str, Response] = {}

    def publish(self) -> list[str]:
        """Serve the world as it now is; what is then sent."""
        self.stream.update(self.world.publish())
        return self.sent()

    def put(self, type_url: TypeUrl, *names: str, content: object = 0) -> list[str]:
        for name in names:
            self.world.put(type_url, name, content)
        return self.publish()

    def remove(self, type_url: TypeUrl, *names: str) -> list[str]:
        for name in names:
            self.world.remove(type_url, name)
        return self.publish()

    def wait(self, seconds: float) -> list[str]:
        self.now += seconds
        return self.sent()

    def sent(self) -> list[str]:
        """What is due now, in words: `CDS a b -c` brings a and b and removes c."""
        responses = self.stream.responses(self.now)
        self.last.update((r.type_url, r) for r in responses)
        return [_words(r) for r in responses]


class SotwTalk(Talk):
    def __init__(self, world: World, kind: Kind = Kind.ENVOY) -> None:
        self.sotw = SotwStream(world.snapshot, kind)
        super().__init__(self.sotw, world)
        self.names: dict[str, Collection[str]] = {}

    def request(
        self,
        type_url: str,
        names: Collection[str] = (),
        *,
        nonce: str = "",
        version: str = "",
        error: str | None = None,
    ) -> Received:
        self.names[type_url] = names
        detail = None if error is None else Status(message=error)
        return self.sotw.receive(
            DiscoveryRequest(
                type_url=type_url, resource_names=names, response_nonce=nonce, version_info=version, error_detail=detail
            ),
            self.now,
        )

    def ask(self, type_url: str, names: Collection[str] = (), version: str = "") -> list[str]:
        """Ask, bearing the last nonce if there has been one; what is then sent."""
        nonce = self.last[type_url].nonce if type_url in self.last else ""
        self.request(type_url, names, nonce=nonce, version=version)
        return self.sent()

    def ack(self, *types: TypeUrl, error: str | None = None) -> list[str]:
        for type_url in types:
            last = self.last[type_url]
            received = self.request(type_url, self.names[type_url], nonce=last.nonce, version=last.version, error=error)
            assert received.outcome is (Outcome.ACKED if error is None else Outcome.NACKED)
        return self.sent()


class DeltaTalk(Talk):
    def __init__(self, world: World) -> None:
        self.delta = DeltaStream(world.snapshot)
        super().__init__(self.delta, world)

    def request(
        self,
        type_url: str,
        names: Iterable[str] = (),
        drop: Iterable[str] = (),
        *,
        held: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> Received:
        return self.delta.receive(
            DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                initial_resource_versions=held or {},
                response_nonce=nonce,
                error_detail=None if error is None else Status(message=error),
            ),
            self.now,
        )

    def ask(
        self, type_url: str, names: Iterable[str] = (), drop: Iterable[str] = (), held: Mapping[str, str] | None = None
    ) -> list[str]:
        """Ask for more or less, bearing no nonce; what is then sent."""
        self.request(type_url, names, drop, held=held)
        return self.sent()

    def ack(self, *types: TypeUrl, error: str | None = None) -> list[str]:
        for type_url in types:
            received = self.request(type_url, nonce=self.last[type_url].nonce, error=error)
            assert received.outcome is (Outcome.ACKED if error is None else Outcome.NACKED)
        return self.sent()


def _words(response: Response) -> str:
    kind = TypeUrl(response.type_url).short if response.type_url in set(TypeUrl) else response.type_url
    return " ".join([kind, *(r.name for r in response.resources), *(f"-{n}" for n in response.removed)])
