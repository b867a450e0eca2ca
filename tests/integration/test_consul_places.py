"""Other datacenters and other clusters, read through an agent of this one: two real Consuls, joined and peered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.consul.config import parts
from isthmus.registry.model import Health
from tests.integration.consul_reading import health, instance, reading, reading_at_all
from tests.servers.consul import Consul
from tests.wait import eventually

WAN: dict[str, Any] = {"TaggedAddresses": {"wan": {"Address": "203.0.113.1", "Port": 443}}}


class Pair:
    """Two datacenters, `here` and `there`, whose servers know each other, and of which `there` exports to `here`."""

    def __init__(self, here: Consul, there: Consul) -> None:
        self.here = here
        self.there = there

    async def joined(self) -> None:
        async def both() -> bool:
            return len(await self.here.get("/v1/catalog/datacenters")) == 2

        await eventually(both, "the datacenters have joined", timeout=30)

    async def peered(self) -> None:
        """Here, the other cluster is called `east`; there, this one is called `west`."""
        if not any(peering["Name"] == "east" for peering in await self.here.get("/v1/peerings")):
            answer = json.loads(await self.there.post("/v1/peering/token", {"PeerName": "west"}))
            await self.here.post("/v1/peering/establish", {"PeerName": "east", "PeeringToken": answer["PeeringToken"]})

        async def active() -> bool:
            return bool((await self.here.get("/v1/peering/east"))["State"] == "ACTIVE")

        await eventually(active, "the peering is active", timeout=20)

    async def imported(self, name: str) -> None:
        """Wait until a service of the peer is known here."""

        async def known() -> bool:
            return bool(await self.here.get(f"/v1/health/service/{name}?peer=east"))

        await eventually(known, f"{name} is imported", timeout=20)

    async def export(self, *names: str) -> None:
        services = [{"Name": name, "Consumers": [{"Peer": "west"}]} for name in names]
        await self.there.put("/v1/config", {"Kind": "exported-services", "Name": "default", "Services": services})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    here, there = asyncio.run(Consul.start_two(tmp_path_factory.mktemp("consuls")))
    yield Pair(here, there)
    here.stop()
    there.stop()


@pytest.fixture
async def pair(shared: Pair) -> AsyncGenerator[Pair]:
    await shared.joined()
    yield shared
    await shared.here.wipe()
    await shared.there.wipe()


async def test_each_datacenter_is_read_through_one_agent_and_far_ones_by_their_wan_addresses(pair: Pair) -> None:
    await pair.here.register("web", "web-here", address="10.0.0.1", **WAN)
    await pair.there.register("web", "web-there", address="10.0.0.1", **WAN)
    both = parts(ConsulConfig(datacenters=("dc1", "dc2")))
    assert [name for name, _ in both] == ["dc1", "dc2"]
    async with (
        reading(pair.here, datacenter=both[0][1].datacenter) as (near, _),
        reading(pair.here, datacenter=both[1][1].datacenter) as (far, _),
    ):
        assert near.addresses("web") == {"10.0.0.1": 8080}
        assert far.addresses("web") == {"203.0.113.1": 443}
        remote = instance(far, "web", "web-there")
        assert remote is not None
        assert remote.provenance["datacenter"] == "dc2"
        service = far.service("web")
        assert service is not None
        assert "web.service.dc2.consul" in service.hostnames
        await pair.there.register("api", address="10.0.0.2", ttl_status="critical")
        await eventually(lambda: health(far, "api") is Health.UNHEALTHY, "a service of the other datacenter")
        await pair.there.set_check("api", "passing")
        await eventually(lambda: health(far, "api") is Health.HEALTHY, "its check passes")
        assert not near.service("api")


async def test_a_datacenter_that_does_not_exist_is_an_error_and_not_an_empty_one(pair: Pair) -> None:
    async with reading_at_all(pair.here, datacenter="dc9") as (seen, _):
        error = await eventually(lambda: seen.error, "an AdapterError")
        assert "No path to datacenter" in str(error)
        assert seen.snapshots == []


@pytest.mark.parametrize("option", ["namespace", "partition"])
async def test_what_only_enterprise_knows_is_refused_in_consuls_own_words(pair: Pair, option: str) -> None:
    async with reading_at_all(pair.here, **{option: "team-a"}) as (seen, _):
        error = await eventually(lambda: seen.error, "an AdapterError")
        assert "Consul Enterprise feature" in str(error)


@pytest.mark.parametrize("max_connections", [50, 23])
async def test_what_a_peer_exports_is_followed_and_nothing_else(
    pair: Pair, max_connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocking queries, and by sweeps alone."""
    monkeypatch.setattr("isthmus.registry.consul.peers.SWEEP", 0.5)
    await pair.here.register("local")
    for name in ("web", "secret"):
        await pair.there.register(name, address="10.0.0.1", ttl_status="passing", **(WAN if name == "web" else {}))
    await pair.peered()
    await pair.export("web")

    await pair.imported("web")
    async with reading(pair.here, peer="east", max_connections=max_connections) as (seen, stats):
        await eventually(lambda: [k.name for k in seen.latest.services] == ["web"], "web alone")
        assert seen.addresses("web") == {"203.0.113.1": 443}
        web = instance(seen, "web")
        assert web is not None
        assert web.provenance["peer"] == "east"
        service = seen.service("web")
        assert service is not None
        assert service.hostnames == {"web.service.east.peer.consul"}
        await pair.there.set_check("web", "critical")
        await eventually(lambda: health(seen, "web") is Health.UNHEALTHY, "its check is critical there")
        await pair.there.register("api", address="10.0.0.3")
        await pair.export("web", "api")
        await eventually(lambda: seen.addresses("api") == {"10.0.0.3": 8080}, "another export", timeout=20)
        await pair.there.deregister("web")
        await eventually(lambda: not seen.addresses("web"), "it is gone there", timeout=20)
        assert (stats.errors, stats.last_success is not None) == (0, True)


async def test_a_peer_that_is_not_known_is_an_error(pair: Pair) -> None:
    async with reading_at_all(pair.here, peer="nobody") as (seen, _):
        error = await eventually(lambda: seen.error, "an AdapterError")
        assert "Peering not found" in str(error)


async def test_a_peer_that_dies_leaves_what_it_said_and_is_said_to_fail(tmp_path: Path) -> None:
    here, there = await Consul.start_two(tmp_path)
    try:
        pair = Pair(here, there)
        await there.register("web", address="10.0.0.1")
        await pair.peered()
        await pair.export("web")
        await pair.imported("web")
        async with reading(here, peer="east") as (seen, _):
            there.kill()
            error = await eventually(lambda: seen.error, "an AdapterError", timeout=30)
            assert "the peering east is FAILING" in str(error)
            assert seen.addresses("web") == {"10.0.0.1": 8080}
    finally:
        here.stop()
        there.stop()
