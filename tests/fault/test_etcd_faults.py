"""What can happen to etcd while the adapter reads it: each time what lives stays known, and recovery needs no restart."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.registry.drain import DrainRules
from isthmus.registry.etcd import EtcdAdapter, EtcdConfig
from isthmus.registry.etcd.config import Prefix
from isthmus.registry.guard import GuardRules
from isthmus.registry.model import Origin
from isthmus.registry.origin import OriginStatus
from isthmus.registry.source import Source, SourceRules
from tests.contract.adapter_contract import Following, following
from tests.servers.etcd import LATEST, OLDEST, Etcd
from tests.servers.relay import Relay
from tests.wait import eventually

HEARTBEAT = 0.5
NOTICED_WITHIN = HEARTBEAT + 1 + 3 * 1 + 5 + 3
"""Silence, the question, as many connections as there are members, an election, and a machine that is busy."""


@pytest.fixture(params=[OLDEST, LATEST])
async def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Etcd]:
    etcd = await Etcd.start_one(tmp_path, request.param)
    yield etcd
    etcd.stop()


@pytest.fixture
async def relay(etcd: Etcd) -> AsyncIterator[Relay]:
    relay = Relay(etcd.port)
    await relay.start()
    yield relay
    await relay.stop()


def make_adapter(*endpoints: str) -> tuple[EtcdAdapter, OriginStatus]:
    origin = Origin("keys", "etcd")
    stats = OriginStatus(origin)
    prefixes = (Prefix("/services/", layout="go-zero"),)
    return EtcdAdapter(origin, EtcdConfig(prefixes=prefixes, endpoints=endpoints, heartbeat=HEARTBEAT), stats), stats


@contextlib.asynccontextmanager
async def reading(*endpoints: str) -> AsyncIterator[tuple[Following, OriginStatus]]:
    """An adapter under way, for so long that a failure of its member makes it go on with the next."""
    adapter, stats = make_adapter(*endpoints)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        await well_under_way()
        yield seen, stats


async def well_under_way() -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + HEARTBEAT
    await eventually(lambda: loop.time() > end, "the connection counts as good")


def address(relay: Relay) -> str:
    return f"http://127.0.0.1:{relay.port}"


async def test_compaction_while_the_connection_is_cut(etcd: Etcd, relay: Relay) -> None:
    """What was deleted then has left no event: all is listed again, at once, and compared."""
    for n in (1, 2, 3):
        await etcd.put(f"/services/web/{n}", f"10.0.0.{n}:80")
    async with reading(address(relay)) as (seen, stats):
        relay.stall()
        await etcd.delete("/services/web/1")
        await etcd.put("/services/web/2", "10.0.0.22:80")
        await etcd.put("/services/web/4", "10.0.0.4:80")
        await etcd.compact(await etcd.revision())
        await etcd.put("/services/api/1", "10.0.1.1:80")
        reads = stats.reads
        await relay.drop()
        relay.mend()
        await eventually(lambda: set(seen.addresses("web")) == {"10.0.0.22", "10.0.0.3", "10.0.0.4"}, "the new state")
        await eventually(lambda: seen.service("api"), "what came after the compaction")
        assert seen.error is None
        assert stats.reads - reads == 2, "one to see whether the member is good, one listing"
        await etcd.put("/services/web/5", "10.0.0.5:80")
        await eventually(lambda: "10.0.0.5" in seen.addresses("web"), "the watch goes on")


async def test_compaction_of_what_a_quiet_watch_has_seen(etcd: Etcd) -> None:
    """It is no concern of a watch that is up to date."""
    await etcd.put("/services/web/1", "10.0.0.1:80")
    async with reading(etcd.address) as (seen, stats):
        for n in range(20):
            await etcd.put("/elsewhere", str(n))
        await etcd.compact(await etcd.revision())
        await etcd.put("/services/web/2", "10.0.0.2:80")
        await eventually(lambda: len(seen.addresses("web")) == 2, "a change")
        assert seen.error is None
        assert stats.reads == 2


async def test_a_restored_backup_is_no_continuation(etcd: Etcd, relay: Relay, tmp_path: Path) -> None:
    """Its revision is lower than the one that is known: what it lacks was not seen to go."""
    await etcd.put("/services/web/1", "10.0.0.1:80")
    await etcd.save()
    twin = await etcd.start_twin(tmp_path / "twin")
    try:
        async with reading(address(relay)) as (seen, _):
            await etcd.put("/services/web/2", "10.0.0.2:80")
            await eventually(lambda: len(seen.addresses("web")) == 2, "a change")
            relay.redirect(twin.port)
            await relay.drop()
            await eventually(lambda: seen.error, "it is noticed", NOTICED_WITHIN)
            assert "a backup was restored" in str(seen.error)
            assert len(seen.addresses("web")) == 2, "not one snapshot of the old state"
    finally:
        twin.stop()


async def test_another_cluster_is_no_continuation(etcd: Etcd, relay: Relay, tmp_path: Path) -> None:
    """Although its revision is higher."""
    await etcd.put("/services/web/1", "10.0.0.1:80")
    other = await Etcd.start_one(tmp_path / "other", etcd.version)
    try:
        for n in range(20):
            await other.put("/services/other/1", f"10.0.9.{n}:80")
        async with reading(address(relay)) as (seen, _):
            relay.redirect(other.port)
            await relay.drop()
            await eventually(lambda: seen.error, "it is noticed", NOTICED_WITHIN)
            assert "belongs to cluster" in str(seen.error)
            assert not seen.service("other")
    finally:
        other.stop()


async def test_what_a_restored_backup_lacks_is_held(etcd: Etcd) -> None:
    """The whole left edge: instances that an old backup does not know are kept, and told apart from those it does know."""
    await etcd.put("/services/web/1", "10.0.0.1:80")
    await etcd.save()
    await etcd.put("/services/web/2", "10.0.0.2:80")
    adapter, status = make_adapter(etcd.address)
    source = Source(adapter, status, SourceRules(GuardRules(hold=60), DrainRules(grace=0), audit=0), None, lambda: None)
    source.start(lambda _: None)
    try:
        await eventually(lambda: source.listed, "it is listed")
        await etcd.restore()
        await eventually(lambda: source.holds, "the missing instance is held", NOTICED_WITHIN)
        assert [hold.instance.address for hold in source.holds] == ["10.0.0.2"]
        assert source.shown is not None
        (service,) = source.shown.services.values()
        assert [i.address for i in service.instances] == ["10.0.0.1", "10.0.0.2"]
        await etcd.put("/services/web/2", "10.0.0.2:80")
        await eventually(lambda: not source.holds, "it has registered again")
    finally:
        await source.stop()


async def test_a_connection_that_carries_nothing_is_noticed(etcd: Etcd, relay: Relay) -> None:
    """Neither closed nor answered, as behind a firewall that forgot it."""
    await etcd.put("/services/web/1", "10.0.0.1:80")
    async with reading(address(relay)) as (seen, _):
        relay.stall()
        await etcd.put("/services/web/2", "10.0.0.2:80")
        await eventually(lambda: seen.error, "silence is noticed", NOTICED_WITHIN)
        assert len(seen.snapshots) == 1
    relay.mend()


async def test_a_broken_connection_loses_nothing(etcd: Etcd, relay: Relay) -> None:
    async with reading(address(relay)) as (seen, _):
        for n in range(1, 4):
            await relay.drop()
            await etcd.put(f"/services/web/{n}", f"10.0.0.{n}:80")
            await eventually(lambda n=n: len(seen.addresses("web")) == n, "a change after the break")  # type: ignore[misc]
            await well_under_way()
        assert seen.error is None


@pytest.fixture(params=[LATEST])
async def members(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Etcd]]:
    members = await Etcd.start_cluster(tmp_path, request.param)
    yield members
    for member in members:
        member.send_signal(signal.SIGCONT)
        member.kill()


async def test_members_are_killed_in_turn(members: list[Etcd]) -> None:
    """Whichever is in use, another one goes on; every change arrives, and there is no error."""
    async with reading(*(m.address for m in members)) as (seen, _):
        for n, member in enumerate(members, 1):
            member.kill()
            other = members[n % 3]
            await eventually(lambda n=n, other=other: _put(other, n), "the others elect a leader", 15)  # type: ignore[misc]
            await eventually(lambda n=n: len(seen.addresses("web")) == n, "a change", NOTICED_WITHIN)  # type: ignore[misc]
            member.start()
            await member.ready()
            await well_under_way()
        assert seen.error is None


async def test_members_are_frozen_in_turn(members: list[Etcd]) -> None:
    async with reading(*(m.address for m in members)) as (seen, _):
        with capture_logs() as logs:
            for n, member in enumerate(members, 1):
                with member.outage():
                    other = members[n % 3]
                    await eventually(lambda n=n, other=other: _put(other, n), "the others elect a leader", 15)  # type: ignore[misc]
                    await eventually(lambda n=n: len(seen.addresses("web")) == n, "a change", NOTICED_WITHIN)  # type: ignore[misc]
                await member.ready()
                await well_under_way()
        assert seen.error is None
        assert "no sign of life" in next(e["because"] for e in logs if e["event"] == "etcd.failed_over")


async def _put(member: Etcd, n: int) -> int:
    return await member.put(f"/services/web/{n}", f"10.0.0.{n}:80")


@pytest.mark.parametrize("members", [OLDEST, LATEST], indirect=True)
async def test_a_member_without_a_leader_is_not_believed(members: list[Etcd]) -> None:
    """Two of three are frozen: the third is alive and says nothing new. That is an error, and heals by itself."""
    await members[0].put("/services/web/1", "10.0.0.1:80")
    adapter, _ = make_adapter(*(m.address for m in members))
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots, "a first snapshot")
        await well_under_way()
        with members[0].outage(), members[1].outage():
            await eventually(lambda: seen.error, "it is noticed", 20)
            assert len(seen.snapshots) == 1
            assert members[2].address in str(seen.error)
    await members[2].ready()
    async with following(adapter) as again:
        await eventually(lambda: again.addresses("web") == {"10.0.0.1": 80}, "it is listed again")


async def test_a_stream_that_ends_each_time_is_not_pursued(etcd: Etcd, relay: Relay) -> None:
    """The second failure within a heartbeat is left to the supervisor, which waits longer each time."""
    async with reading(address(relay)) as (seen, stats):
        await relay.drop()
        await eventually(lambda: stats.errors, "it has failed over")
        await relay.cut()
        await eventually(lambda: seen.error, "an error", NOTICED_WITHIN)
    assert stats.errors <= 3
