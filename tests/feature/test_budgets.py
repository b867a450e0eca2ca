"""How much a registry may be asked, as operators see it."""

from __future__ import annotations

import json

from isthmus.bridge.config import ConsulRegistry
from tests.feature.conftest import World
from tests.wait import eventually


async def test_the_budget_of_a_registry_is_shown_beside_what_was_used_of_it(world: World) -> None:
    nobody = ConsulRegistry(name="consul", address="http://127.0.0.1:1", max_connections=50, max_reads_per_minute=600)
    world.configure(registries=(nobody, world.registry("local", world.folder)), sync_timeout=0)
    await world.started()
    await eventually(lambda: world.bridge.hub.statuses["consul"].error, "it was tried")

    status, answer = await world.get("/debug/registries")
    consul, local = answer if isinstance(answer, list) else json.loads(answer)
    assert status == 200
    assert (consul["max_reads_per_minute"], consul["max_connections"], consul["read_waits"]) == (600, 50, 0)
    assert (local["max_reads_per_minute"], local["max_connections"]) == (None, None)
    at = {"origin": "consul", "kind": "consul"}
    assert await world.metric("isthmus_registry_max_reads_per_minute", **at) == 600
    assert await world.metric("isthmus_registry_max_connections", **at) == 50
    assert await world.metric("isthmus_registry_reads_last_minute", **at) == 0
    assert await world.metric("isthmus_registry_read_waits_total", **at) == 0
    assert await world.metric("isthmus_registry_reads_last_minute", origin="local", kind="file") >= 1
