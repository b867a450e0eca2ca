"""One adapter, run for ever: what its failures do and do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from structlog.testing import capture_logs

from isthmus.registry import supervise as module
from isthmus.registry.adapter import AdapterError
from isthmus.registry.model import Origin, Quarantined, Snapshot
from isthmus.registry.origin import OriginStatus
from isthmus.registry.supervise import supervise
from tests.scripted import ScriptedAdapter
from tests.wait import eventually
from tests.world import mk_instance, mk_service, mk_snapshot


class World:
    def __init__(self) -> None:
        self.adapter = ScriptedAdapter()
        self.status = OriginStatus(self.adapter.origin)
        self.published: list[tuple[str, bool]] = []
        self.failures = 0

    async def publish(self, snapshot: Snapshot, relisted: bool) -> None:
        self.published.append((snapshot.cursor, relisted))

    def failed(self) -> None:
        self.failures += 1

    async def said(self, snapshot: Snapshot) -> None:
        """The adapter yields it, and it is published."""
        before = len(self.published)
        self.adapter.say(snapshot)
        await eventually(lambda: len(self.published) > before, "it is published")


async def published(*_: object) -> None:
    pass


@asynccontextmanager
async def supervised() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(supervise(world.adapter, world.status, world.publish, world.failed))
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def snapshot(cursor: str) -> Snapshot:
    return mk_snapshot(mk_service("reviews", [mk_instance(1)]), cursor=cursor)


async def test_the_first_snapshot_of_each_iteration_is_marked_as_listed_anew() -> None:
    async with supervised() as world:
        for cursor in ("1", "2"):
            await world.said(snapshot(cursor))
        world.adapter.fail()
        for cursor in ("3", "4"):
            await world.said(snapshot(cursor))

        assert world.published == [("1", True), ("2", False), ("3", True), ("4", False)]


async def test_a_failure_is_stale_since_the_last_proof_of_life_and_ends_with_the_next_listing() -> None:
    with capture_logs() as logs:
        async with supervised() as world:
            await world.said(snapshot("1"))
            alive = world.status.last_success
            world.adapter.fail("connection refused")
            await eventually(lambda: world.status.error, "it is stale")
            assert (world.status.error, world.status.stale_since) == ("connection refused", alive)
            assert world.status.synced
            assert world.failures == 1

            await world.said(snapshot("2"))
            assert (world.status.error, world.status.stale_since) == ("", None)
            assert world.status.cursor == "2"

    events = [e["event"] for e in logs]
    assert events == ["registry.synced", "registry.stale", "registry.recovered"]
    assert all(e["origin"] == "consul" for e in logs)


async def test_a_long_outage_is_said_once() -> None:
    """Each further failure is for `--log-level debug`."""
    with capture_logs() as logs:
        async with supervised() as world:
            for _ in range(3):
                world.adapter.fail()
            await eventually(lambda: world.failures == 3, "it was tried three times")

    assert [(e["event"], e["log_level"]) for e in logs] == [
        ("registry.stale", "warning"),
        ("registry.still_stale", "debug"),
        ("registry.still_stale", "debug"),
    ]


async def test_attempts_grow_apart_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that comes back is not met by a fleet in step, nor waited for much longer than it takes."""
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(module, "LONGEST_BACKOFF", 0.008)
    with capture_logs() as logs:
        async with supervised() as world:
            for _ in range(8):
                world.adapter.fail()
            await eventually(lambda: world.failures == 8, "it was tried")

    waits = [e["retry_in_s"] for e in logs if "retry_in_s" in e]
    assert len(waits) == 7
    assert max(waits) <= 0.01
    assert world.adapter.iterations >= 8


async def test_an_adapter_that_ends_is_a_failure_like_any_other() -> None:
    class Ending:
        origin = Origin("odd", "fake")

        async def snapshots(self) -> AsyncIterator[Snapshot]:
            for s in (snapshot("1"),):
                yield s

        async def listing(self) -> Snapshot:
            return snapshot("1")

    status = OriginStatus(Ending.origin)
    task = asyncio.create_task(supervise(Ending(), status, published, lambda: None))
    await eventually(lambda: status.error, "it is reported")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert status.error == "odd: the adapter ended its listing"


async def test_a_programming_error_is_not_waited_out() -> None:
    class Broken:
        origin = Origin("odd", "fake")

        async def snapshots(self) -> AsyncIterator[Snapshot]:
            raise KeyError("a bug")
            yield

        async def listing(self) -> Snapshot:
            raise AdapterError("no")

    with pytest.raises(KeyError, match="a bug"):
        await supervise(Broken(), OriginStatus(Broken.origin), published, lambda: None)


async def test_quarantine_and_doubt_are_said_when_they_begin_and_end() -> None:
    left_out = (Quarantined("consul", "reviews.yaml:3", "no such port"),)
    with capture_logs() as logs:
        async with supervised() as world:
            bad = msgspec.structs.replace(snapshot("1"), quarantined=left_out, doubt="ACLs filtered the answer")
            await world.said(bad)
            await world.said(msgspec.structs.replace(bad, cursor="2"))
            assert world.status.quarantined == left_out
            assert world.status.doubt == "ACLs filtered the answer"
            await world.said(snapshot("3"))

    assert [e["event"] for e in logs] == [
        "registry.synced",
        "registry.quarantined",
        "registry.doubtful",
        "registry.quarantine_ended",
        "registry.doubt_ended",
    ]
    assert (logs[1]["where"], logs[1]["reason"]) == ("reviews.yaml:3", "no such port")
    assert world.status.doubt == ""


async def test_doubt_about_single_services_is_said_once_and_names_the_first_few() -> None:
    with capture_logs() as logs:
        async with supervised() as world:
            two = mk_snapshot(doubts={"reviews": "hidden by ACLs", "ratings": "hidden by ACLs"})
            await world.said(two)
            await world.said(msgspec.structs.replace(two, cursor="2"))
            assert world.status.doubt == "ratings.default, reviews.default: hidden by ACLs"
            await world.said(mk_snapshot(doubts={f"svc-{n}": "hidden by ACLs" for n in range(7)}))
            assert world.status.doubted == 7
            assert "svc-4.default and 2 more: hidden by ACLs" in world.status.doubt

    said = [e for e in logs if e["event"] == "registry.doubtful"]
    assert [e["services"] for e in said] == [2, 7]


async def test_listings_that_do_not_name_all_are_said_once() -> None:
    with capture_logs() as logs:
        async with supervised() as world:
            for cursor in ("1", "2"):
                await world.said(mk_snapshot(cursor=cursor, unlisted="ACLs hide services"))

    said = [e for e in logs if e["event"] == "registry.not_all_listed"]
    assert [(e["reason"], e["log_level"]) for e in said] == [("ACLs hide services", "info")]
    assert world.status.doubt == ""
