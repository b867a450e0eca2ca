"""Real Envoys that reach the bridge over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from isthmus.bridge.bridge import Bridge
from isthmus.bridge.config import Config, FileRegistry, ListenConfig, MeshConfig, TLSListenConfig, XdsConfig
from isthmus.xds.bootstrap import ClientTLS
from tests.e2e.translated import each
from tests.servers.authority import Authority
from tests.servers.envoy import LATEST, Envoy
from tests.servers.process import free_port
from tests.servers.upstream import Upstream, get
from tests.wait import eventually


class Mesh:
    """A bridge that reads one file, and Envoys that reach it as a test says."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.outbound = free_port()
        self._stack = stack

    async def start(self, *, clients_need_certificates: bool = False) -> None:
        cert, key = self.authority.issue("bridge")
        ca = str(self.authority.file) if clients_need_certificates else ""
        upstream = Upstream("one")
        await upstream.start()
        self._stack.push_async_callback(upstream.stop)
        services = self.directory / "services.yaml"
        services.write_text(
            "services: [{name: web, ports: [{name: http, number: 80}],"
            f" instances: [{{address: 127.0.0.1, ports: {{http: {upstream.port}}}}}]}}]"
        )
        tls = TLSListenConfig(str(cert), str(key), ca, "127.0.0.1:0")
        self.bridge = Bridge(
            Config(
                registries=(FileRegistry(name="local", path=str(services)),),
                mesh=MeshConfig(outbound_port=self.outbound),
                xds=XdsConfig("127.0.0.1:0", tls),
                http=ListenConfig("127.0.0.1:0"),
                state_dir=str(self.directory / "state"),
            )
        )
        await self.bridge.start()
        self._stack.push_async_callback(self.bridge.stop)

    def envoy(self, version: str, tls: ClientTLS, *, node: str = "envoy", delta: bool = True) -> Envoy:
        envoy = Envoy(self.directory, self.bridge.xds_tls_address, version, node=node, delta=delta, tls=tls)
        envoy.start()
        self._stack.callback(envoy.stop)
        return envoy

    async def answered(self) -> bool:
        return await get(self.outbound, "web.default.mesh") == (200, "one")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(tmp_path, stack)


@each
async def test_an_envoy_over_tls(mesh: Mesh, version: str, delta: bool) -> None:
    await mesh.start()
    envoy = mesh.envoy(version, ClientTLS(str(mesh.authority.file)), delta=delta)
    await envoy.ready()
    await eventually(mesh.answered, "the service answers")
    assert [p.node for p in mesh.bridge.server.proxies()] == ["envoy"]
    assert await envoy.rejected() == {}


async def test_a_certificate_of_another_authority_is_not_trusted(mesh: Mesh, tmp_path: Path) -> None:
    """Envoy counts why, tries again, and learns nothing."""
    await mesh.start()
    other = Authority(tmp_path, "other")
    envoy = mesh.envoy(LATEST, ClientTLS(str(other.file)))

    async def failed() -> bool:
        return (await envoy.stats("cluster.xds-grpc.ssl"))["cluster.xds-grpc.ssl.fail_verify_error"] > 1

    await eventually(failed, "it has tried again")
    assert mesh.bridge.server.proxies() == []


async def test_the_name_in_the_certificate_is_looked_at(mesh: Mesh) -> None:
    """One for another host, of the authority that is trusted, does not do."""
    await mesh.start()
    mesh.authority.issue("bridge", "DNS:elsewhere.example")
    envoy = mesh.envoy(LATEST, ClientTLS(str(mesh.authority.file)))

    async def failed() -> bool:
        return (await envoy.stats("cluster.xds-grpc.ssl"))["cluster.xds-grpc.ssl.fail_verify_san"] > 1

    await eventually(failed, "it has tried again")
    assert mesh.bridge.server.proxies() == []

    mesh.authority.issue("bridge")
    await envoy.ready()


async def test_the_bridge_wants_a_certificate_of_its_clients(mesh: Mesh) -> None:
    await mesh.start(clients_need_certificates=True)
    cert, key = mesh.authority.issue("web-1", "URI:spiffe://mesh/web")
    without = mesh.envoy(LATEST, ClientTLS(str(mesh.authority.file)), node="without")
    own = mesh.envoy(LATEST, ClientTLS(str(mesh.authority.file), str(cert), str(key)), node="with")
    await own.ready()

    async def failed() -> bool:
        return (await without.stats("cluster.xds-grpc.upstream_cx_total"))["cluster.xds-grpc.upstream_cx_total"] > 1

    await eventually(failed, "it has tried again")
    assert [p.node for p in mesh.bridge.server.proxies()] == ["with"]
