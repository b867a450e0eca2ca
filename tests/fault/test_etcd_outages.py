"""A real etcd, one member or three, to which the worst happens under the eyes of a bridge and an Envoy."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.bridge.config import EtcdRegistry
from isthmus.registry.etcd.config import Prefix
from tests.fault.served import NOTICED, RECOVERED, Served, served
from tests.servers.etcd import Etcd
from tests.servers.upstream import Upstream
from tests.wait import eventually

HOST = "web.default.mesh"
PASSWORD = "s3cret-s3cret"  # noqa: S105 - of a server that lives for one test


def reading(*members: Etcd, user: str = "") -> EtcdRegistry:
    return EtcdRegistry(
        name="etcd",
        endpoints=tuple(m.address for m in members),
        prefixes=(Prefix("/services/", layout="go-zero"),),
        default_port=80,
        heartbeat=0.5,
        user=user,
        password=PASSWORD if user else "",
    )


async def put(etcd: Etcd, n: int, port: int = 80) -> bool:
    """Register web at 10.0.0.`n`, or at a port of this machine; true, so that one may try until it can be done."""
    await etcd.put(f"/services/web/{n}", f"127.0.0.1:{port}" if port != 80 else f"10.0.0.{n}:80")
    return True


async def until_known(world: Served, *numbers: int) -> None:
    expected = {f"10.0.0.{n}" for n in numbers}
    await eventually(lambda: set(world.healths("web")) == expected, f"{numbers} are in the catalog", RECOVERED)


def held(world: Served) -> set[str]:
    return {hold.instance.id for hold in world.bridge.hub.holds}


@pytest.fixture
async def members(tmp_path: Path) -> AsyncIterator[list[Etcd]]:
    members = await Etcd.start_cluster(tmp_path / "etcd")
    yield members
    for member in members:
        member.send_signal(signal.SIGCONT)
        member.kill()


async def test_frozen_compacted_restored(tmp_path: Path) -> None:
    """It stops answering; it compacts away what was deleted meanwhile; it is restored from an old copy. What was deleted is gone,
    what the copy merely lacks is kept, and through Envoy no request fails."""
    etcd = await Etcd.start_one(tmp_path / "etcd")
    one = Upstream("one")
    try:
        await one.start()
        await put(etcd, 1, one.port)
        await etcd.save()
        async with served(tmp_path, reading(etcd)) as world:
            ups = {"one": one.port} | {name: (await world.upstream(name)).port for name in ("two", "three")}
            await put(etcd, 2, ups["two"])
            await put(etcd, 3, ups["three"])
            await eventually(lambda: world.ports("web") == set(ups.values()), "all are known", RECOVERED)
            await world.start_envoy()
            async with world.load(HOST) as load:
                with etcd.outage():
                    await world.until_stale("no answer", "no sign of life")
                    assert world.ports("web") == set(ups.values())
                await world.until_current()

                await etcd.delete("/services/web/3")
                await etcd.compact(await etcd.revision())
                await eventually(lambda: world.ports("web") == {ups["one"], ups["two"]}, "who deregistered is gone")

                await etcd.restore()
                await eventually(lambda: held(world) == {"/services/web/2"}, "it is held", RECOVERED)
                await world.until_current()
                assert world.ports("web") == {ups["one"], ups["two"]}
                load.recent()
                await eventually(lambda: {"one", "two"} <= load.answers.keys(), "both serve")
                await put(etcd, 2, ups["two"])
                await eventually(lambda: not world.bridge.hub.holds, "it is registered again", NOTICED)
    finally:
        etcd.stop()
        await one.stop()


async def test_no_leader(members: list[Etcd], tmp_path: Path) -> None:
    """Two of three are frozen: the third is not believed, though it answers; what was known stays, and is said to be old."""
    async with served(tmp_path, reading(*members)) as world:
        await put(members[0], 1)
        await until_known(world, 1)
        with members[0].outage(), members[1].outage():
            error = await world.until_stale(members[2].address)
            assert world.status.synced
            assert set(world.healths("web")) == {"10.0.0.1"}, error
        await members[2].ready()
        await world.until_current()
        await put(members[2], 2)
        await until_known(world, 1, 2)
        assert world.bridge.hub.holds == ()


async def test_a_member_is_replaced(members: list[Etcd], tmp_path: Path) -> None:
    """For good: one dies, is removed, and another one takes its place under the same address, with an empty directory."""
    async with served(tmp_path, reading(members[0])) as world:
        await put(members[0], 1)
        await until_known(world, 1)
        gone = members[0]
        gone.kill()
        await world.until_stale(gone.address)
        new = await members[1].replace(gone, tmp_path / "new")
        members[0] = new
        await new.ready()
        await world.until_current()
        assert set(world.healths("web")) == {"10.0.0.1"}
        await put(members[1], 2)
        await until_known(world, 1, 2)
        assert world.bridge.hub.holds == ()


async def test_a_user_that_is_dismissed(tmp_path: Path) -> None:
    """The role is taken away under the watch, and given back. (Tokens that merely expire: tests/integration/test_etcd.py.)"""
    etcd = await Etcd.start_one(tmp_path / "etcd", options=["--auth-token-ttl=1"])
    try:
        await etcd.add_user("bridge", PASSWORD, "/services/")
        await etcd.enable_authentication(PASSWORD)
        await put(etcd, 1)
        async with served(tmp_path, reading(etcd, user="bridge")) as world:
            await until_known(world, 1)
            await etcd.sign_in(PASSWORD)
            await etcd.call("/v3/auth/user/revoke", {"name": "bridge", "role": "bridge"})
            # A watch that is under way goes on. It is the next one that is refused.
            etcd.kill()
            etcd.start()
            error = await world.until_stale("permission", "denied")
            assert PASSWORD not in error
            assert set(world.healths("web")) == {"10.0.0.1"}

            async def given_back() -> bool:
                await etcd.sign_in(PASSWORD)
                await etcd.call("/v3/auth/user/grant", {"user": "bridge", "role": "bridge"})
                return await put(etcd, 2)

            await eventually(given_back, "etcd is there", 30)
            await until_known(world, 1, 2)
            await world.until_current()
    finally:
        etcd.stop()
