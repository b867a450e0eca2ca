"""Services at the addresses of real upstreams, translated as a bridge does it, for a real Envoy: no registry, guard or drain."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from isthmus.registry.model import Catalog, Instance, OutlierDetection, Port, Protocol, Service, ServiceKey
from isthmus.xds import names
from isthmus.xds.resource import Resource, TypeUrl
from isthmus.xds.translate import Mesh, MeshSettings, Translation, translate
from tests.e2e.scripted import Scripted
from tests.peers import ENVOYS
from tests.servers.process import free_port
from tests.servers.upstream import Upstream, get
from tests.wait import eventually
from tests.world import mk_key

HTTP_PORT = 80

each = pytest.mark.parametrize(
    ("version", "delta"),
    [(version, delta) for version in ENVOYS for delta in (True, False)],
    ids=[f"{version}-{variant}" for version in ENVOYS for variant in ("delta", "sotw")],
)
"""Every supported Envoy, with both forms of the protocol."""


class Translated(Scripted):
    """The server, and the services that it serves."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        super().__init__(directory, stack)
        self.tcp_port = free_port()
        """Of all TCP services; each has an address of its own."""
        self._services: dict[ServiceKey, Service] = {}
        self._virtual_ips: dict[ServiceKey, str] = {}
        self._written: tuple[Resource, ...] = ()
        self._translation: Translation | None = None

    def http(self, name: str, *upstreams: Upstream, rules: OutlierDetection | None = None) -> Service:
        """An HTTP service; `rules` is something that changes its cluster."""
        return _service(name, Port("main", HTTP_PORT, Protocol.HTTP), upstreams, rules)

    def tcp(self, name: str, *upstreams: Upstream, rules: OutlierDetection | None = None) -> Service:
        """A TCP service, which is given an address."""
        count = len(self._virtual_ips)
        self._virtual_ips.setdefault(mk_key(name), f"127.64.{count // 250}.{count % 250 + 1}")
        return _service(name, Port("main", self.tcp_port, Protocol.TCP), upstreams, rules)

    def change(
        self, *services: Service, without: Collection[str] = (), written: Iterable[Resource] | None = None
    ) -> None:
        """Add or replace services and remove others, in one generation.

        `written` takes the place of the resources that stand beside or instead of the translated ones.
        """
        self._services = {k: s for k, s in self._services.items() if k.name not in without}
        self._services.update({service.key: service for service in services})
        if written is not None:
            self._written = tuple(written)
        settings = MeshSettings(outbound_port=self.port)
        mesh = Mesh(
            Catalog(self._services),
            settings,
            {k: self._virtual_ips[k] for k in self._services.keys() & self._virtual_ips.keys()},
        )
        self._translation = translate(mesh, self._translation)
        resources = {t: dict(of_type) for t, of_type in self._translation.resources.items()}
        for resource in self._written:
            resources[resource.type_url][resource.name] = resource
        self.publish_whole(resources)

    def virtual_ip(self, name: str) -> str:
        """Where the listener of a TCP service is."""
        return self._virtual_ips[mk_key(name)]

    async def get_http(self, name: str) -> tuple[int, str]:
        """A request to an HTTP service."""
        return await get(self.port, host(name))

    async def get_tcp(self, name: str) -> tuple[int, str]:
        """A request to a TCP service, whose upstream is an HTTP server all the same. Raises aiohttp.ClientError."""
        return await get(self.tcp_port, "anything", self.virtual_ip(name))

    async def followed(self, what: str, timeout: float = 10) -> None:
        """Wait until the Envoy has accepted all that there is. Until 15 s have passed it waits for what it is not sent."""
        await eventually(self._is_followed, f"it has followed: {what}", timeout)

    def sent(self, type_url: TypeUrl) -> int:
        """How many resources of a type have gone out."""
        return int(self.metric("isthmus_xds_resources_total", type=type_url.short))

    def _is_followed(self) -> bool:
        (proxy,) = self.server.proxies()
        states = {t.type: t.state for t in proxy.types}
        return states.keys() >= {"CDS", "EDS", "LDS", "RDS"} and set(states.values()) == {"SYNCED"}


def host(name: str) -> str:
    """What an HTTP service is called by."""
    return names.hostname(mk_key(name), MeshSettings().domain)


def cluster(service: Service) -> str:
    """The name of a service's cluster."""
    return names.outbound(service.ports[0].number, host(service.key.name))


def _service(name: str, port: Port, upstreams: Iterable[Upstream], rules: OutlierDetection | None) -> Service:
    instances = (Instance(u.name, "test", "127.0.0.1", {port.name: u.port}) for u in upstreams)
    ordered = tuple(sorted(instances, key=lambda i: i.id))
    return Service(mk_key(name), (port,), ordered, outlier_detection=rules)
