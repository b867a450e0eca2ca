"""The HTTP side, as an operator and a Prometheus see it."""

from __future__ import annotations

import shutil

import aiohttp
import pytest

from isthmus.bridge.bridge import Bridge, StartError
from isthmus.bridge.config import ConsulRegistry
from isthmus.registry.guard import GuardRules
from tests.feature.client import CDS
from tests.feature.conftest import World
from tests.wait import eventually


async def test_alive_before_it_is_ready(world: World) -> None:
    await world.start()

    assert await world.get("/healthz") == (200, "ok\n")
    assert (await world.get("/readyz"))[0] == 503


async def test_a_registry_that_fails_later_is_stale_and_the_bridge_stays_ready(world: World) -> None:
    """Its services are served as they were; the page says since when and why, the metrics how long."""
    world.write("reviews", "10.0.0.1")
    await world.started()
    shutil.rmtree(world.folder)

    async def stale() -> bool:
        return (await world.get("/readyz"))[1]["registries"]["local"]["stale_since"] is not None

    await eventually(stale, "it is reported")
    status, state = await world.get("/readyz")
    local = state["registries"]["local"]
    assert (status, state["ready"], local["synced"]) == (200, True, True)
    assert local["stale_for_s"] >= 0
    assert str(world.folder) in local["error"]
    assert len((await world.get("/debug/catalog"))[1]["services"]) == 1
    assert await world.metric("isthmus_registry_staleness_seconds", origin="local", kind="file") > 0
    assert await world.metric("isthmus_registry_errors_total", origin="local", kind="file") >= 1

    world.write("reviews", "10.0.0.2")

    async def recovered() -> bool:
        return (await world.get("/readyz"))[1]["registries"]["local"]["stale_since"] is None

    await eventually(recovered, "it comes back by itself")
    assert await world.metric("isthmus_registry_staleness_seconds", origin="local", kind="file") == 0


async def test_metrics_count_the_registry_and_the_pushes(world: World) -> None:
    world.write("reviews", "10.0.0.1", "10.0.0.2")
    world.write("details", "10.0.0.9")
    await world.started()
    client = await world.client()
    await client.subscribe(CDS)
    await client.take(CDS)

    async def acked() -> bool:
        return await world.metric("isthmus_xds_acks_total", type="CDS") == 1

    await eventually(acked, "the acknowledgement is counted")
    at = {"origin": "local", "kind": "file"}
    assert await world.metric("isthmus_registry_synced", **at) == 1
    assert await world.metric("isthmus_registry_services", **at) == 2
    assert await world.metric("isthmus_registry_instances", **at) == 3
    assert await world.metric("isthmus_registry_reads_total", **at) >= 1
    assert await world.metric("isthmus_registry_last_success_timestamp_seconds", **at) > 1_700_000_000
    assert await world.metric("isthmus_xds_pushes_total", type="CDS") == 1
    assert await world.metric("isthmus_xds_push_bytes_total", type="CDS") > 0
    assert await world.metric("isthmus_xds_resources_total", type="CDS") == 2
    assert await world.metric("isthmus_xds_streams") == 1

    wake_ups = await world.metric("isthmus_registry_watch_wake_ups_total", **at)
    world.write("ratings", "10.0.0.7")

    async def woken() -> bool:
        return await world.metric("isthmus_registry_watch_wake_ups_total", **at) > wake_ups

    await eventually(woken, "the watch's wake-up is counted")


async def test_the_catalog_says_what_was_left_out_and_what_is_held(world: World) -> None:
    world.configure(guard=GuardRules(hold=300, shrink=0.5))
    world.write("reviews", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    await world.started()

    (world.folder / "broken.yaml").write_text("services: [{name: ratings, ports: [{name: http, number: 99999}]}]")

    async def quarantined() -> bool:
        return bool((await world.get("/debug/catalog"))[1]["quarantined"])

    await eventually(quarantined, "the broken file is named, though no service changed")
    (left_out,) = (await world.get("/debug/catalog"))[1]["quarantined"]
    assert left_out["where"] == "broken.yaml:1"
    assert "65535" in left_out["reason"]

    # Gone for a while, and back with less than half: not believed at once.
    world.folder.rename(world.directory / "away")

    async def stale() -> bool:
        return bool((await world.get("/readyz"))[1]["registries"]["local"]["error"])

    await eventually(stale, "it cannot be read")
    world.write("reviews", "10.0.0.1")
    await eventually(lambda: world.bridge.hub.holds, "two are held")
    holds = (await world.get("/debug/catalog"))[1]["holds"]
    assert [(h["service"], h["instance"], h["origin"]) for h in holds] == [
        ("reviews.default", "reviews-10.0.0.2", "local"),
        ("reviews.default", "reviews-10.0.0.3", "local"),
    ]
    assert 290 < holds[0]["ends_in_s"] <= 300
    assert "1 of 3" in holds[0]["reason"]
    assert await world.metric("isthmus_registry_held", origin="local", kind="file") == 2


async def test_an_unknown_path_names_the_known_ones(world: World) -> None:
    await world.start()

    status, text = await world.get("/ready")

    assert status == 404
    assert "/readyz" in text
    async with aiohttp.ClientSession() as s, s.post(f"http://{world.bridge.http_address}/readyz") as answer:
        assert answer.status == 405


async def test_tokens_are_nowhere(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in any page, nor in the logs, also when the registry refuses."""
    world.write("reviews", "10.0.0.1")
    await world.started()
    address = f"http://{world.bridge.http_address}"  # somebody who answers, and is no Consul
    consul = ConsulRegistry(name="consul", address=address, token="s3cr3t-t0ken")  # noqa: S106
    await world.bridge.reload(world.configure(registries=(*world.config.registries, consul)))
    await eventually(lambda: world.bridge.hub.statuses["consul"].error, "it was asked")

    for path in ("/readyz", "/metrics", "/debug/catalog", "/debug/proxies"):
        assert "s3cr3t" not in str((await world.get(path))[1])
    out, err = capsys.readouterr()
    assert "registry.stale" in out + err
    assert "s3cr3t" not in out + err
    assert "s3cr3t" not in repr(consul)


@pytest.mark.parametrize("side", ["http", "xds"])
async def test_a_taken_port_is_one_sentence_and_nothing_is_left(world: World, side: str) -> None:
    await world.started()
    taken = getattr(world.bridge, f"{side}_address")
    second = Bridge(world.configure(**{side: type(getattr(world.config, side))(taken)}))

    with pytest.raises(StartError) as error:
        await second.start()

    assert str(error.value).startswith(f"{side}.address {taken}: ")
    assert "in use" in str(error.value)
    assert (await world.get("/readyz"))[0] == 200


async def test_a_state_directory_that_cannot_be_used_is_one_sentence(world: World) -> None:
    world.write("reviews", "10.0.0.1")
    world.configure(state_dir=str(world.folder / "reviews.yaml"))

    with pytest.raises(StartError, match=r"state_dir .*reviews\.yaml: Not a directory"):
        await world.start()
