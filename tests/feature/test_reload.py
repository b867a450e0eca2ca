"""Other registries while the bridge runs: what is not concerned does not notice, and proxies lose nothing on the way."""

from __future__ import annotations

import msgspec
import pytest
from structlog.testing import capture_logs

from isthmus.bridge.bridge import StartError
from isthmus.bridge.config import ConsulRegistry, FileRegistry
from isthmus.registry.guard import GuardRules
from tests.feature.client import CDS, EDS, Client
from tests.feature.conftest import World
from tests.servers.process import free_port
from tests.wait import eventually

REVIEWS = "outbound|80||reviews.default.mesh"
DETAILS = "outbound|80||details.default.mesh"


async def running(world: World) -> Client:
    """A bridge that serves `reviews` from the registry `local`, and a client that has it."""
    world.write("reviews", "10.0.0.1")
    await world.started()
    client = await world.client()
    await client.converge()
    return client


async def test_a_registry_is_added_and_the_others_go_on(world: World) -> None:
    client = await running(world)
    world.write("details", "10.0.0.9", folder=world.directory / "more")
    before = world.bridge.hub.statuses["local"]
    reads = before.reads

    await world.bridge.reload(world.configure(registries=(*world.config.registries, world.registry("more"))))

    assert set((await client.take(CDS)).resources) == {DETAILS}
    assert world.bridge.hub.statuses["local"] is before
    assert before.reads == reads, "the other registry was not listed again"


async def test_a_registry_is_removed_with_what_it_alone_knew(world: World) -> None:
    world.write("details", "10.0.0.9", folder=world.directory / "more")
    world.configure(registries=(*world.config.registries, world.registry("more")))
    await running(world)
    assert len(world.bridge.published.catalog.services) == 2

    await world.bridge.reload(world.configure(registries=world.config.registries[:1]))

    await eventually(
        lambda: [s.name for s in world.bridge.published.catalog.services] == ["reviews"], "details is gone"
    )
    assert list(world.bridge.hub.statuses) == ["local"]


async def test_other_settings_of_a_registry_keep_what_it_said_until_it_lists_anew(world: World) -> None:
    """Also its counters, and the bridge stays ready: here the new place cannot be read at first."""
    client = await running(world)
    reads = world.bridge.hub.statuses["local"].reads
    elsewhere = world.directory / "elsewhere"

    await world.bridge.reload(world.configure(registries=(world.registry("local", elsewhere),)))
    await eventually(lambda: world.bridge.hub.statuses["local"].error, "it cannot be read")
    status, state = await world.get("/readyz")
    assert (status, state["waiting_for"]) == (200, [])
    assert world.bridge.hub.statuses["local"].reads == reads
    assert len(world.bridge.published.catalog.services) == 1

    world.write("reviews", "10.0.0.2", folder=elsewhere)
    assert (await client.take(EDS)).endpoints(REVIEWS) == {"10.0.0.2:80"}


async def test_a_renamed_registry_is_not_missed(world: World) -> None:
    """The old one stays until the new one has listed, so nothing of it is withdrawn and sent again."""
    client = await running(world)

    await world.bridge.reload(world.configure(registries=(world.registry("renamed", world.folder),)))

    assert list(world.bridge.hub.statuses) == ["renamed"]
    world.write("reviews", "10.0.0.2")
    shown = [(await client.take(EDS)).endpoints(REVIEWS)]
    while shown[-1] != {"10.0.0.2:80"}:
        shown.append((await client.take(EDS)).endpoints(REVIEWS))
    assert all(shown)
    assert not any(a.removed for a in client.answers)
    (service,) = world.bridge.published.catalog.services.values()
    assert {i.origin for i in service.instances} == {"renamed"}


async def test_a_registry_that_becomes_one_of_another_kind_keeps_what_it_said(world: World) -> None:
    await running(world)
    consul = ConsulRegistry(name="local", address=f"http://127.0.0.1:{free_port()}")

    await world.bridge.reload(world.configure(registries=(consul,)))
    await eventually(lambda: world.bridge.hub.statuses["local"].error, "nobody answers there")

    assert world.bridge.hub.statuses["local"].origin.kind == "consul"
    assert len(world.bridge.published.catalog.services) == 1
    assert (await world.get("/readyz"))[0] == 200


async def test_precedence_follows_the_order_of_the_file(world: World) -> None:
    """Where two claim the same port, the first one's word holds."""
    more = world.directory / "more"
    world.write("reviews", "10.0.0.2", folder=more, number=8080)
    world.configure(registries=(*world.config.registries, world.registry("more")))
    await running(world)
    assert [p.number for s in world.bridge.published.catalog.services.values() for p in s.ports] == [80]
    assert (await world.get("/debug/catalog"))[1]["conflicts"]

    await world.bridge.reload(world.configure(registries=world.config.registries[::-1]))

    await eventually(
        lambda: [p.number for s in world.bridge.published.catalog.services.values() for p in s.ports] == [8080],
        "8080 wins",
    )


async def test_what_needs_a_restart_is_named_and_left_as_it_is(world: World) -> None:
    await running(world)
    address = world.bridge.xds_address
    other = msgspec.structs.replace(world.config.mesh, domain="other.example")

    with capture_logs() as logs:
        await world.bridge.reload(world.configure(mesh=other, guard=GuardRules(hold=1)))

    (warning,) = (e for e in logs if e["event"] == "bridge.restart_needed")
    assert warning["fields"] == ["guard", "mesh"]
    assert world.bridge.xds_address == address
    assert world.bridge.config.mesh.domain == "mesh"


async def test_a_configuration_that_refers_to_what_is_not_there_changes_nothing(world: World) -> None:
    await running(world)
    before = world.bridge.config
    broken = ConsulRegistry(name="consul", address="https://127.0.0.1:1", ca_file=str(world.directory / "ca.pem"))

    with pytest.raises(StartError, match=r"registry consul: ca_file .*/ca\.pem: No such file"):
        await world.bridge.reload(world.configure(registries=(broken,)))

    assert world.bridge.config is before
    assert list(world.bridge.hub.statuses) == ["local"]


async def test_a_new_name_is_not_waited_for_beyond_its_time(world: World) -> None:
    """A removal waits for what is new, as it may be the same registry under another name; but not for ever."""
    await running(world)
    registries = (FileRegistry(name="gone", path=str(world.directory / "gone")),)

    await world.bridge.reload(world.configure(registries=registries, sync_timeout=0.2))

    assert list(world.bridge.hub.statuses) == ["gone"]
    await eventually(lambda: not world.bridge.published.catalog.services, "what was removed is believed")
    assert (await world.get("/readyz"))[0] == 200
