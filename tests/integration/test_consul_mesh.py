"""What Consul's own mesh and its agents' memory make of a registry: sidecars, streams, caches; against a real Consul."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from functools import partial

import pytest

from isthmus.registry.model import Health
from tests.integration.consul_reading import health, instance, reading, reading_at_all
from tests.servers.consul import Consul
from tests.wait import eventually


@pytest.fixture(scope="module", params=[True, False], ids=["streaming", "no-streaming"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Consul]:
    settings = {"use_streaming_backend": request.param}
    consul = asyncio.run(Consul.start_dev(tmp_path_factory.mktemp("consul"), settings))
    yield consul
    consul.stop()


@pytest.fixture
async def consul(shared: Consul) -> AsyncGenerator[Consul]:
    """A Consul that knows only itself, and answers out of a view that is streamed to it, or does not."""
    yield shared
    await shared.wipe()


@pytest.mark.parametrize("agent_cache", [False, True])
async def test_every_change_is_followed_out_of_a_view_and_out_of_a_cache(consul: Consul, agent_cache: bool) -> None:
    await consul.register("web", "web-1", address="10.0.0.1", ttl_status="critical")
    await consul.register("api")
    async with reading(consul, agent_cache=agent_cache) as (seen, stats):
        assert health(seen, "web", "web-1") is Health.UNHEALTHY
        for status, expected in (
            ("passing", Health.HEALTHY),
            ("critical", Health.UNHEALTHY),
            ("passing", Health.HEALTHY),
        ):
            await consul.set_check("web-1", status)
            await eventually(lambda: health(seen, "web", "web-1") is expected, status)  # noqa: B023 - awaited at once
        await consul.register("web", "web-1", address="10.0.0.7", ttl_status="passing")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.7": 8080}, "another address")
        await consul.register("web", "web-2", address="10.0.0.8")
        await eventually(lambda: len(seen.addresses("web")) == 2, "another instance")
        await consul.deregister("web-1")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.8": 8080}, "one instance less")
        await consul.deregister("web-2")
        await eventually(lambda: not seen.service("web"), "the service is gone")
        await consul.register("web", "web-3", address="10.0.0.9")
        await eventually(lambda: seen.addresses("web") == {"10.0.0.9": 8080}, "it is there again")
        assert (stats.errors, stats.stale_since, seen.latest.doubts) == (0, None, {})


@pytest.mark.parametrize("agent_cache", [False, True])
async def test_an_agent_that_dies_is_noticed_whatever_it_answered_from(consul: Consul, agent_cache: bool) -> None:
    await consul.register("web")
    async with reading_at_all(consul, agent_cache=agent_cache) as (seen, _):
        await eventually(lambda: seen.snapshots, "a first snapshot")
        with consul.outage():
            await eventually(partial(getattr, seen, "error"), "an AdapterError")
        assert len(seen.latest.services) == 1


async def test_an_instance_knows_its_sidecar_and_the_sidecar_is_no_service(consul: Consul) -> None:
    async with reading(consul) as (seen, _):
        await consul.register("web", address="10.0.0.1", Connect={"SidecarService": {"Port": 21007}})
        await eventually(
            lambda: (i := instance(seen, "web")) and i.provenance.get("sidecar") == "10.0.0.1:21007", "its sidecar"
        )
        assert [k.name for k in seen.latest.services] == ["web"]
        assert seen.latest.quarantined == ()
        await consul.deregister("web-sidecar-proxy")
        await eventually(lambda: (i := instance(seen, "web")) and "sidecar" not in i.provenance, "the sidecar is gone")


async def test_gateways_are_no_services_and_native_instances_say_so(consul: Consul) -> None:
    for kind in ("mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"):
        await consul.register(kind, Kind=kind)
    await consul.register("web", Connect={"Native": True})
    async with reading(consul) as (seen, _):
        assert [k.name for k in seen.latest.services] == ["web"]
        native = instance(seen, "web")
        assert native is not None
        assert native.tls_mode == "connect"
        assert seen.latest.quarantined == ()


async def test_a_socket_and_a_host_name_are_addresses(consul: Consul) -> None:
    await consul.catalog_register("n1", "web", "by-socket", Port=0, SocketPath="/run/web.sock")
    await consul.catalog_register("n1", "web", "by-name", Address="web.example.com")
    async with reading(consul) as (seen, _):
        assert seen.addresses("web") == {"unix:///run/web.sock": 0, "web.example.com": 8080}
