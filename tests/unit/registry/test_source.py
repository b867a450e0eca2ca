from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.registry import source as source_module
from isthmus.registry.drain import DrainRules
from isthmus.registry.guard import GuardRules
from isthmus.registry.lastgood import LastGood
from isthmus.registry.model import Health
from isthmus.registry.origin import OriginStatus
from isthmus.registry.passage import Passage, take
from isthmus.registry.source import Source, SourceRules
from isthmus.registry.thread import LARGE
from tests.scripted import ScriptedAdapter
from tests.wait import eventually
from tests.world import mk_instance, mk_key, mk_service, mk_snapshot

A, B, C = (mk_instance(n) for n in (1, 2, 3))
RULES = SourceRules(GuardRules(hold=60), DrainRules(grace=0), audit=0)


@asynccontextmanager
async def running(
    adapter: ScriptedAdapter, rules: SourceRules = RULES, directory: Path | None = None
) -> AsyncIterator[Source]:
    crashed: list[BaseException] = []

    def on_crash(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            crashed.append(error)

    lastgood = LastGood(directory, adapter.origin) if directory else None
    source = Source(adapter, OriginStatus(adapter.origin), rules, lastgood, lambda: None)
    source.start(on_crash)
    try:
        yield source
    finally:
        await source.stop()
    assert not crashed


def ids(source: Source) -> dict[str, Health]:
    service = source.shown.services.get(mk_key("reviews")) if source.shown else None
    return {i.id: i.health for i in service.instances} if service else {}


async def test_hints_of_skipped_snapshots_are_united() -> None:
    adapter = ScriptedAdapter()
    async with running(adapter) as source:
        adapter.say(mk_snapshot(mk_service("reviews", [A]), mk_service("ratings", [B])))
        await eventually(lambda: source.shown, "it is there")
        assert source.read() is not None
        adapter.say(mk_snapshot(mk_service("reviews", [A, C]), mk_service("ratings", [B]), changed=["reviews"]))
        adapter.say(mk_snapshot(mk_service("reviews", [A, C]), mk_service("ratings", [C]), changed=["ratings"]))
        await eventually(
            lambda: len(ids(source)) == 2 and source.listed and len(source.listed.services) == 2, "it has changed"
        )
        await eventually(lambda: source.listed and source.listed.changed == frozenset({mk_key("ratings")}), "twice")

        read = source.read()

        assert read is not None
        assert read.changed == frozenset({mk_key("reviews"), mk_key("ratings")})
        assert source.read() is read


async def test_what_was_saved_is_served_when_the_registry_is_down_at_the_start(tmp_path: Path) -> None:
    """Marked stale since it was saved; the registry's word replaces it as soon as there is one."""
    LastGood(tmp_path, ScriptedAdapter().origin).save(mk_snapshot(mk_service("reviews", [A, B, C]), cursor="900"))
    adapter = ScriptedAdapter()
    async with running(adapter, directory=tmp_path) as source:
        assert source.shown is None
        adapter.fail()
        await eventually(lambda: len(ids(source)) == 3, "the saved state is shown")
        assert source.status.stale_since is not None
        assert not source.status.synced

        adapter.say(mk_snapshot(mk_service("reviews", [A, B]), cursor="950"))

        await eventually(lambda: set(ids(source)) == {"i1", "i2"}, "the registry is believed")
        assert source.status.stale_since is None


async def test_a_registry_that_starts_empty_together_with_the_bridge_is_not_believed(tmp_path: Path) -> None:
    LastGood(tmp_path, ScriptedAdapter().origin).save(mk_snapshot(mk_service("reviews", [A, B, C]), cursor="900"))
    adapter = ScriptedAdapter()
    async with running(adapter, directory=tmp_path) as source:
        adapter.say(mk_snapshot(cursor="12"))

        await eventually(lambda: len(source.holds) == 3, "all are held")
        assert len(ids(source)) == 3


async def test_what_is_known_is_saved_at_the_latest_when_it_stops(tmp_path: Path) -> None:
    adapter = ScriptedAdapter()
    async with running(adapter, directory=tmp_path) as source:
        adapter.say(mk_snapshot(mk_service("reviews", [A])))
        await eventually(lambda: source.shown, "it is there")

    saved = LastGood(tmp_path, adapter.origin).load()
    assert saved is not None
    assert mk_key("reviews") in saved.snapshot.services


async def test_an_operator_releases_what_is_held() -> None:
    adapter = ScriptedAdapter()
    async with running(adapter) as source:
        adapter.say(mk_snapshot(mk_service("reviews", [A, B]), mk_service("ratings", [C]), cursor="900"))
        await eventually(lambda: source.shown, "it is there")
        adapter.fail()
        adapter.say(mk_snapshot(cursor="12"))
        await eventually(lambda: len(source.holds) == 3, "all are held")

        assert await source.release(frozenset({mk_key("reviews")})) == 2

        assert ids(source) == {}
        assert [h.instance.id for h in source.holds] == ["i3"]
        assert await source.release(frozenset({mk_key("reviews")})) == 0


async def test_an_audit_finds_what_a_watch_lost_says_what_and_lists_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "AUDIT_PATIENCE", 0.01)
    adapter = ScriptedAdapter()
    rules = SourceRules(GuardRules(), DrainRules(grace=0), audit=0.02)
    truth = mk_snapshot(mk_service("reviews", [A, C]), cursor="5")
    with capture_logs() as logs:
        async with running(adapter, rules) as source:
            adapter.say(mk_snapshot(mk_service("reviews", [A, B]), cursor="4"))
            await eventually(lambda: source.shown, "it is there")
            adapter.lists = truth

            await eventually(lambda: adapter.iterations == 2, "it is listed anew")
            adapter.say(truth)

            await eventually(lambda: set(ids(source)) == {"i1", "i3"}, "the truth is shown")
            assert source.status.drift == 1
            audits = source.status.audits
            await eventually(lambda: source.status.audits > audits + 2, "it goes on auditing")
            assert source.status.drift == 1
    found = [entry for entry in logs if entry["event"] == "registry.drift"]
    assert [(e["service"], e["difference"]) for e in found] == [("reviews.default", "the watch missed i3, kept i2")]


async def test_an_audit_of_what_is_the_same_finds_nothing() -> None:
    adapter = ScriptedAdapter()
    async with running(adapter, SourceRules(audit=0.01)) as source:
        adapter.lists = mk_snapshot(mk_service("reviews", [A]))
        adapter.say(adapter.lists)
        await eventually(lambda: source.status.audits > 3, "it was audited")

        assert source.status.drift == 0
        assert adapter.iterations == 1


async def test_a_watch_that_is_merely_late_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "AUDIT_PATIENCE", 0.2)
    adapter = ScriptedAdapter()
    async with running(adapter, SourceRules(audit=0.01)) as source:
        adapter.say(mk_snapshot(mk_service("reviews", [A])))
        await eventually(lambda: source.shown, "it is there")
        adapter.lists = mk_snapshot(mk_service("reviews", [A, B]))
        adapter.say(mk_snapshot(mk_service("reviews", [A, B]), changed=["reviews"]))

        await eventually(lambda: source.status.audits > 2, "it was audited")

        assert source.status.drift == 0


async def test_what_happens_while_a_large_listing_is_compared_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared beside the loop, with what was known when it came; an operator's release takes effect after it."""
    begun, go = threading.Event(), threading.Event()

    def held(*arguments: Any, **rules: Any) -> Passage:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go.wait(30)
        return take(*arguments, **rules)

    adapter = ScriptedAdapter()
    async with running(adapter) as source:
        adapter.say(mk_snapshot(mk_service("reviews", [A, B]), mk_service("ratings", [C]), cursor="900"))
        await eventually(lambda: source.shown, "it is there")
        adapter.fail()
        adapter.say(mk_snapshot(mk_service("ratings", [C]), cursor="12"))
        await eventually(lambda: len(source.holds) == 2, "two are held")

        monkeypatch.setattr(source_module, "take", held)
        many = mk_service("many", [mk_instance(n) for n in range(LARGE)])
        adapter.say(mk_snapshot(many, mk_service("ratings", [C]), cursor="13"))
        await eventually(begun.is_set, "it is being compared")
        release = asyncio.create_task(source.release(frozenset({mk_key("reviews")})))
        await asyncio.sleep(0)
        assert source.due is None, "what is due meanwhile waits"
        assert set(ids(source)) == {"i1", "i2"}
        go.set()

        assert await release == 2
        assert source.holds == ()
        assert source.shown is not None
        assert set(source.shown.services) == {mk_key("many"), mk_key("ratings")}
        read = source.read()
        assert read is not None
        assert read.changed is None, "all is to be compared: nothing was read before"
