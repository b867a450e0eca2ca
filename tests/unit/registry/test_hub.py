"""All origins, as one catalog at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from isthmus.registry.hub import Hub
from isthmus.registry.merge import MergeRules
from isthmus.registry.model import Catalog, Origin, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.source import SourceRules
from tests.scripted import ScriptedAdapter
from tests.wait import eventually
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

RULES = SourceRules(GuardRules(hold=0), DrainRules(grace=0), audit=0)


class Watched:
    """A hub, its scripted origins, and the catalogs that it has yielded."""

    def __init__(self, sync_timeout: float) -> None:
        self.hub = Hub(RULES, sync_timeout)
        self.adapters: dict[str, ScriptedAdapter] = {}
        self.catalogs: list[Catalog] = []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for catalog in self.hub.catalogs():
            self.catalogs.append(catalog)

    def add(self, name: str) -> ScriptedAdapter:
        adapter = self.adapters[name] = ScriptedAdapter(name)
        self.hub.add(adapter, OriginStatus(adapter.origin))
        return adapter

    def services(self) -> dict[str, list[str]]:
        """Instances by service, in the latest catalog."""
        last = self.catalogs[-1] if self.catalogs else Catalog({})
        return {k.name: [i.id for i in s.instances] for k, s in last.services.items()}

    async def shows(self, **services: list[str]) -> None:
        await eventually(lambda: self.catalogs and self.services() == services, f"the catalog is {services}")


@asynccontextmanager
async def watched(*names: str, sync_timeout: float = 60) -> AsyncIterator[Watched]:
    world = Watched(sync_timeout)
    for name in names:
        world.add(name)
    try:
        yield world
    finally:
        world.task.cancel()
        await asyncio.gather(world.task, return_exceptions=True)
        await world.hub.close()


def knows(service: str, *numbers: int, origin: str = "a", cursor: str = "1") -> Snapshot:
    return mk_snapshot(
        mk_service(service, [mk_instance(n, origin=origin) for n in numbers]), origin=origin, cursor=cursor
    )


async def test_a_world_half_read_is_never_shown() -> None:
    async with watched("a", "b") as world:
        world.adapters["a"].say(knows("reviews", 1))
        await eventually(lambda: world.hub.unsynced == ["b"], "a has been read")
        assert not world.hub.ready
        assert world.catalogs == []

        world.adapters["b"].say(knows("details", 2, origin="b"))
        await world.shows(reviews=["i1"], details=["i2"])

        assert len(world.catalogs) == 1
        assert world.catalogs[0].changed_at is None, "the first one is no change"


async def test_who_does_not_answer_is_waited_for_no_longer_than_told() -> None:
    async with watched("a", "b", sync_timeout=0.3) as world:
        world.adapters["a"].say(knows("reviews", 1))

        await world.shows(reviews=["i1"])

        assert world.hub.unsynced == ["b"]
        world.adapters["b"].say(knows("details", 2, origin="b"))
        await world.shows(reviews=["i1"], details=["i2"])


async def test_nothing_at_all_is_not_shown_as_an_empty_world() -> None:
    async with watched("a", "b", sync_timeout=0) as world:
        for adapter in world.adapters.values():
            adapter.fail()
        await eventually(lambda: all(s.error for s in world.hub.statuses.values()), "both have failed")
        assert not world.hub.ready
        assert world.catalogs == []

        world.adapters["b"].say(mk_snapshot(origin="b"))
        await world.shows()

        assert len(world.catalogs) == 1, "a registry that says that it is empty is believed"


async def test_a_failure_leaves_what_is_known() -> None:
    async with watched("a", "b") as world:
        world.adapters["a"].say(knows("reviews", 1))
        world.adapters["b"].say(knows("details", 2, origin="b"))
        await world.shows(reviews=["i1"], details=["i2"])

        world.adapters["a"].fail()
        await eventually(lambda: world.hub.statuses["a"].error, "a is stale")
        world.adapters["b"].say(knows("details", 3, origin="b"))

        await world.shows(reviews=["i1"], details=["i3"])


async def test_a_burst_is_one_catalog_and_its_hints_are_united() -> None:
    async with watched("a") as world:
        world.adapters["a"].say(
            mk_snapshot(mk_service("x", [mk_instance(1)]), mk_service("y", [mk_instance(1)]), origin="a")
        )
        await world.shows(x=["i1"], y=["i1"])

        x2 = mk_service("x", [mk_instance(2)])
        y2 = mk_service("y", [mk_instance(2)])
        world.adapters["a"].say(mk_snapshot(x2, mk_service("y", [mk_instance(1)]), origin="a", changed=["x"]))
        world.adapters["a"].say(mk_snapshot(x2, y2, origin="a", changed=["y"]))
        await world.shows(x=["i2"], y=["i2"])

        assert len(world.catalogs) == 2
        assert world.catalogs[-1].changed == frozenset({mk_key("x"), mk_key("y")})
        assert world.catalogs[-1].changed_at is not None


async def test_what_says_the_same_again_is_no_catalog() -> None:
    async with watched("a", "b") as world:
        for name, adapter in world.adapters.items():
            adapter.say(knows(name, 1, origin=name))
        await world.shows(a=["i1"], b=["i1"])

        world.adapters["a"].say(knows("a", 1, cursor="2"))
        await eventually(lambda: world.hub.statuses["a"].cursor == "2", "it was read")
        world.adapters["b"].say(knows("b", 2, origin="b"))
        await world.shows(a=["i1"], b=["i2"])

        assert len(world.catalogs) == 2
        assert world.catalogs[-1].changed == frozenset({mk_key("b")})


async def test_an_origin_that_is_removed_takes_what_it_alone_knew() -> None:
    async with watched("a", "b") as world:
        world.adapters["a"].say(knows("reviews", 1))
        world.adapters["b"].say(knows("details", 2, origin="b"))
        await world.shows(reviews=["i1"], details=["i2"])

        await world.hub.remove("a")

        await world.shows(details=["i2"])
        assert list(world.hub.statuses) == ["b"]


async def test_a_replaced_origin_keeps_what_was_known_until_it_has_listed() -> None:
    async with watched("a", "b") as world:
        world.adapters["a"].say(knows("reviews", 1))
        world.adapters["b"].say(knows("details", 2, origin="b"))
        await world.shows(reviews=["i1"], details=["i2"])

        replacement = ScriptedAdapter("a")
        await world.hub.replace(replacement, world.hub.statuses["a"])
        world.adapters["b"].say(knows("details", 3, origin="b"))
        await world.shows(reviews=["i1"], details=["i3"])
        replacement.say(knows("reviews", 7))

        await world.shows(reviews=["i7"], details=["i3"])
        assert list(world.hub.statuses) == ["a", "b"], "it has kept its place"
        assert world.adapters["b"].iterations == 1, "the other one was left alone"


async def test_precedence_can_be_turned_round() -> None:
    async with watched("a", "b") as world:
        for name, port in (("a", 80), ("b", 8080)):
            world.adapters[name].say(mk_snapshot(mk_service("reviews", [mk_instance(1)], port=port), origin=name))
        await eventually(lambda: world.catalogs, "there is a catalog")
        assert [p.number for p in world.catalogs[-1].services[mk_key("reviews")].ports] == [80]

        world.hub.prefer(["b", "a"], MergeRules())

        await eventually(lambda: len(world.catalogs) == 2, "there is another")
        assert [p.number for p in world.catalogs[-1].services[mk_key("reviews")].ports] == [8080]
        assert world.catalogs[-1].conflicts != world.catalogs[0].conflicts


async def test_waiting_for_a_listing_ends_with_it_or_in_time() -> None:
    async with watched("a", "b") as world:
        waiting = asyncio.create_task(world.hub.wait_synced({"a"}, 60))
        world.adapters["a"].say(knows("reviews", 1))
        async with asyncio.timeout(10):
            await waiting

        await world.hub.wait_synced({"b"}, 0.01)
        assert world.hub.unsynced == ["b"]


async def test_an_adapters_programming_error_ends_the_catalogs_with_it() -> None:
    class Broken:
        origin = Origin("odd", "fake")

        async def snapshots(self) -> AsyncIterator[Snapshot]:
            raise KeyError("a bug")
            yield

        async def listing(self) -> Snapshot:
            return mk_snapshot()

    async with watched("a") as world:
        world.hub.add(Broken(), OriginStatus(Broken.origin))

        with pytest.raises(KeyError, match="a bug"):
            async with asyncio.timeout(10):
                await world.task
