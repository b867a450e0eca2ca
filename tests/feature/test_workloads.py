"""Workloads register with the bridge itself, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from isthmus.bridge.config import ListenConfig, WorkloadsRegistry
from isthmus.registry.drain import DrainRules
from tests.feature.client import CDS, EDS
from tests.feature.conftest import World
from tests.wait import eventually

CLUSTER = "outbound|9080||reviews.default.mesh"
TOKEN = "a-token-of-the-agents"  # noqa: S105 - of a bridge that lives for one test


class Agent:
    """Somebody who registers."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._world = world
        self._session = session

    async def put(self, id_: str, headers: dict[str, str] | None = None, **changes: Any) -> tuple[int, Any]:
        """Register a workload `vm-N`, at 10.0.0.5 the first one."""
        above, last = divmod(int(id_.removeprefix("vm-")), 250)
        address = f"10.0.{above}.{last + 4}"
        body = {"service": "reviews", "address": address, "ports": {"http": 9080}, "epoch": 1} | changes
        return await self.ask("PUT", id_, json=body, headers=headers)

    async def heartbeat(self, id_: str, epoch: int = 1) -> tuple[int, Any]:
        return await self.ask("POST", f"{id_}/heartbeat", json={"epoch": epoch})

    async def delete(self, id_: str, epoch: int = 1) -> tuple[int, Any]:
        return await self.ask("DELETE", f"{id_}?epoch={epoch}")

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        url = f"http://{self._world.bridge.http_address}/v1/workloads/{path}"
        async with self._session.request(method, url, timeout=aiohttp.ClientTimeout(10), **more) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def agent(world: World) -> AsyncIterator[Agent]:
    world.configure(registries=(WorkloadsRegistry(name="agents"),))
    async with aiohttp.ClientSession() as session:
        yield Agent(world, session)


async def served(world: World, *ids: str) -> None:
    """Wait until the catalog has these instances of reviews."""

    def shown() -> bool:
        services = {key.name: s for key, s in world.bridge.published.catalog.services.items()}
        return sorted(i.id for i in services["reviews"].instances) == sorted(ids) if ids else not services

    await eventually(shown, f"the catalog has {ids}")


async def test_a_workload_registers_changes_and_leaves(world: World, agent: Agent) -> None:
    """What it says is what proxies get; an empty bridge is ready at once."""
    await world.started()
    client = await world.client()
    await client.subscribe(CDS)
    await client.take(CDS)

    assert await agent.put("vm-1", numbers={"http": 9080}, ports={"http": 19080}) == (200, {"ttl": 30})
    assert set((await client.take(CDS)).resources) == {CLUSTER}
    await client.subscribe(EDS, [CLUSTER])
    assert (await client.take(EDS)).endpoints(CLUSTER) == {"10.0.0.5:19080"}

    assert (await agent.put("vm-2"))[0] == 200
    assert (await client.take(EDS)).endpoints(CLUSTER) == {"10.0.0.5:19080", "10.0.0.6:9080"}
    assert await agent.heartbeat("vm-1") == (200, {"ttl": 30})
    assert (await agent.put("vm-2", health="draining"))[0] == 200
    await client.take(EDS)

    assert await agent.delete("vm-2") == (200, {"id": "vm-2", "epoch": 1})
    assert (await client.take(EDS)).endpoints(CLUSTER) == {"10.0.0.5:19080"}
    assert (await agent.delete("vm-2"))[0] == 404
    status, listed = await world.get("/v1/workloads")
    assert status == 200
    assert [(w["id"], w["service"], w["address"], w["health"], w["held"]) for w in listed] == [
        ("vm-1", "reviews.default", "10.0.0.5", "healthy", False)
    ]
    assert (await agent.ask("GET", "vm-1"))[1] == (await world.get("/v1/workloads"))[1][0] | {
        "heard_s_ago": pytest.approx(listed[0]["heard_s_ago"], abs=2)
    }
    assert (await agent.ask("GET", "vm-2"))[0] == 404


async def test_an_old_agent_takes_nothing_away_from_a_new_one(world: World, agent: Agent) -> None:
    await world.started()
    await agent.put("vm-1", epoch=5, address="10.0.0.1")

    assert (await agent.put("vm-1", epoch=7, address="10.0.0.7"))[0] == 200
    status, refused = await agent.put("vm-1", epoch=5, address="10.0.0.1")
    assert (status, refused) == (409, {"error": "workload vm-1 is registered with epoch 7, which is later than 5"})
    assert (await agent.heartbeat("vm-1", 5))[0] == 409
    assert (await agent.delete("vm-1", 5))[0] == 409
    assert (await agent.heartbeat("vm-1", 7))[0] == 200

    # One that is known by a later number only has to register: this bridge has an old copy of the record, perhaps.
    assert await agent.heartbeat("vm-1", 8) == (404, {"error": "workload vm-1 is not registered with epoch 8"})
    assert (await agent.delete("vm-1", 8))[0] == 404
    assert (await agent.heartbeat("vm-2"))[0] == 404
    await served(world, "vm-1")
    (instance,) = next(iter(world.bridge.published.catalog.services.values())).instances
    assert instance.address == "10.0.0.7"


@pytest.mark.parametrize(
    ("ask", "body", "said"),
    [
        (("PUT", "vm-1"), b"{", "Input data was truncated"),
        (("PUT", "vm-1"), b'{"service": "reviews"}', "address is missing"),
        (("PUT", "-vm"), b"{}", "id '-vm': expected at most 200 letters, digits"),
        (("PUT", "..%2f..%2fetc"), b"{}", "id '../../etc': expected at most 200 letters, digits"),
        (("POST", "vm-1/heartbeat"), b"", 'expected {"epoch": N}'),
        (("POST", "vm-1/heartbeat"), b'{"epoch": -1}', 'expected {"epoch": N}'),
        (("DELETE", "vm-1"), b"", "expected ?epoch=N"),
        (("DELETE", "vm-1?epoch=-1"), b"", "expected ?epoch=N"),
    ],
)
async def test_what_is_wrong_is_one_sentence(
    world: World, agent: Agent, ask: tuple[str, str], body: bytes, said: str
) -> None:
    await world.started()

    status, answer = await agent.ask(*ask, data=body)

    assert status == 400
    assert answer["error"].startswith(said)
    assert "\n" not in answer["error"]


async def test_a_body_that_does_not_end_is_cut_off(world: World, agent: Agent) -> None:
    await world.started()

    status, answer = await agent.ask("PUT", "vm-1", data=b" " * 70_000)

    assert (status, answer) == (413, {"error": "the body is larger than 65536 bytes"})


async def test_without_a_registry_for_them_nobody_registers_and_a_reload_changes_that(
    world: World, agent: Agent
) -> None:
    world.configure(registries=(world.registry("local", world.folder),))
    await world.started()

    status, answer = await agent.put("vm-1")
    assert status == 501
    assert "{name: agents, type: workloads}" in answer["error"]

    local = world.config.registries
    await world.bridge.reload(world.configure(registries=(*local, WorkloadsRegistry(name="agents"))))
    assert (await agent.put("vm-1"))[0] == 200
    await served(world, "vm-1")

    await world.bridge.reload(world.configure(registries=local))
    assert (await agent.heartbeat("vm-1"))[0] == 501
    await served(world)


async def test_a_token_guards_what_changes_something(
    world: World, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading is open, as on all of this port; the token is in no page and no log."""
    world.configure(http=ListenConfig("127.0.0.1:0", TOKEN))
    await world.started()

    status, answer = await agent.put("vm-1")
    assert (status, answer) == (
        401,
        {"error": "expected the header Authorization: Bearer, with the token of http.token"},
    )
    assert (await agent.heartbeat("vm-1"))[0] == 401
    assert (await agent.delete("vm-1"))[0] == 401
    for wrong in ("Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe4"):
        status, answer = await agent.put("vm-1", {"Authorization": wrong})
        assert (status, answer) == (403, {"error": "that is not the token of http.token"})
    assert (await world.get("/v1/workloads")) == (200, [])
    assert (await agent.put("vm-1", {"Authorization": f"Bearer {TOKEN}"}))[0] == 200
    assert len((await world.get("/v1/workloads"))[1]) == 1
    out, err = capsys.readouterr()
    assert TOKEN not in out + err + repr(world.config)


async def test_who_falls_silent_leaves_through_the_drain(world: World, agent: Agent) -> None:
    """And is told to register again when it is back."""
    world.configure(drain=DrainRules(grace=0.5))
    await world.started()
    await agent.put("vm-1", ttl=1)
    await agent.put("vm-2", ttl=1000)
    await served(world, "vm-1", "vm-2")

    with capture_logs() as logs:
        (source,) = world.bridge.hub.sources.values()
        await eventually(lambda: [x.instance.id for x in source.leaving] == ["vm-1"], "it drains")
        await served(world, "vm-2")

    (expired,) = (e for e in logs if e["event"] == "workloads.expired")
    assert expired["id"] == "vm-1"
    assert 1 <= expired["silent_for_s"] < 4
    assert (await agent.heartbeat("vm-1"))[0] == 404


async def test_after_a_restart_everybody_is_there_and_has_its_whole_ttl(world: World, agent: Agent) -> None:
    """Nobody could be heard while the bridge was away."""
    await world.started()
    await agent.put("vm-1", ttl=3)
    await agent.put("vm-2", ttl=3)
    await served(world, "vm-1", "vm-2")
    await world.bridge.stop()

    address = world.bridge.http_address  # the replica's name is made of it
    world.configure(http=ListenConfig(address))
    await world.started()
    await served(world, "vm-1", "vm-2")
    assert await agent.heartbeat("vm-1") == (200, {"ttl": 3})
    ages = {w["id"]: w["heard_s_ago"] for w in (await world.get("/v1/workloads"))[1]}
    assert max(ages.values()) < 2

    async def only_one() -> bool:
        await agent.heartbeat("vm-1")
        return len((await world.get("/v1/workloads"))[1]) == 1

    await eventually(only_one, "the silent one goes")
    await served(world, "vm-1")


async def test_heartbeats_of_a_thousand_write_and_push_nothing(world: World, agent: Agent) -> None:
    """Not one record is written, and not one byte is sent to a proxy."""
    await world.started()
    for n in range(1000):
        assert (await agent.put(f"vm-{n}"))[0] == 200
    await served(world, *(f"vm-{n}" for n in range(1000)))
    client = await world.client()
    await client.converge()
    folder = Path(world.config.state_dir) / "workloads"
    written = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    views = world.bridge.published.views
    assert views is not None
    generation = views.envoy.generation

    for n in range(1000):
        assert (await agent.heartbeat(f"vm-{n}"))[0] == 200
        assert n % 10 or (await agent.put(f"vm-{n}"))[0] == 200

    assert await client.barrier() == []
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == written
    assert world.bridge.published.views is not None
    assert world.bridge.published.views.envoy.generation == generation
    assert (await agent.put("vm-7", health="unhealthy"))[0] == 200
    await client.take(EDS)


async def test_it_is_a_registry_like_any_other(world: World, agent: Agent) -> None:
    """It is listed with its state, and each instance is explained; a record that somebody has damaged is named."""
    await world.started()
    await agent.put("vm-1")
    await served(world, "vm-1")
    (Path(world.config.state_dir) / "workloads" / "vm-2").write_text("{}")

    await eventually(lambda: world.bridge.hub.statuses["agents"].quarantined, "it is noticed")
    (registry,) = (await world.get("/debug/registries"))[1]
    assert (registry["name"], registry["kind"], registry["synced"], registry["instances"]) == (
        "agents",
        "workloads",
        True,
        1,
    )
    assert registry["address"] == f"directory {world.config.state_dir}"
    walk = (await world.get("/debug/explain?service=reviews&endpoint=10.0.0.5:9080"))[1]
    assert walk["stages"][0]["where"] == "agents"
    (left_out,) = (await world.get("/debug/catalog"))[1]["quarantined"]
    assert left_out["where"] == "workload vm-2"
    assert (await agent.put("vm-2"))[0] == 200, "whoever registers puts it right"
    await served(world, "vm-1", "vm-2")


async def test_while_the_store_is_down_living_workloads_stay_and_the_rest_is_said(world: World, agent: Agent) -> None:
    """Heartbeats are answered; what would have to be written is refused for the moment, and nothing expires."""
    await world.started()
    await agent.put("vm-1", ttl=1)
    await served(world, "vm-1")
    state, away = Path(world.config.state_dir), world.directory / "away"
    state.rename(away)

    status, answer = await agent.put("vm-2")
    assert status == 503
    assert answer["error"].startswith(f"store directory {state}: workloads/vm-2: ")
    assert (await agent.delete("vm-1"))[0] == 503
    assert (await agent.heartbeat("vm-1"))[0] == 200

    async def overdue() -> bool:
        return bool((await world.get("/v1/workloads"))[1][0]["heard_s_ago"] > 2)

    await eventually(overdue, "its time is over")
    await served(world, "vm-1")
    assert (await agent.heartbeat("vm-1"))[0] == 200
    away.rename(state)
    assert (await agent.put("vm-2"))[0] == 200
    await served(world, "vm-1", "vm-2")
