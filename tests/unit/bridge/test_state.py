"""Virtual IPs outlive the process and are the same for every replica, whatever happens to the disk or the store."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import shutil
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.bridge.state import KEY, StateError, VirtualIPs
from isthmus.registry.kv.directory import DirectoryStore
from isthmus.registry.model import Catalog, Protocol, Service, ServiceKey
from tests.wait import eventually
from tests.world import mk_key, mk_service

NETWORK = "127.64.0.0/10"


def mk_catalog(*services: Service, changed: tuple[str, ...] | None = None) -> Catalog:
    return Catalog(
        {s.key: s for s in services}, changed=None if changed is None else frozenset(mk_key(name) for name in changed)
    )


DB, CACHE = (mk_service(name, port=5432, protocol=Protocol.TCP) for name in ("db", "cache"))
WEB = mk_service("web")


@contextlib.asynccontextmanager
async def opened(directory: Path, network: str = NETWORK, copy: Path | None = None) -> AsyncGenerator[VirtualIPs]:
    """Those of a bridge with this directory as its store; with `copy`, as if the store were elsewhere."""
    ips = VirtualIPs(DirectoryStore(directory), network, copy)
    await ips.load()
    running = asyncio.create_task(ips.run())
    try:
        yield ips
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def assign(ips: VirtualIPs, catalog: Catalog) -> Mapping[ServiceKey, str]:
    ips.take(catalog)
    await ips.settle()
    return dict(ips.assigned)


async def test_who_needs_an_address_gets_one_of_its_own(tmp_path: Path) -> None:
    """HTTP services share one listener and need none."""
    async with opened(tmp_path) as ips:
        given = await assign(ips, mk_catalog(DB, CACHE, WEB))

    assert set(given) == {DB.key, CACHE.key}
    assert len(set(given.values())) == 2
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network(NETWORK) for a in given.values())


async def test_addresses_are_the_same_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as ips:
        before = await assign(ips, mk_catalog(DB, CACHE))
    async with opened(tmp_path / "state") as ips:
        ips.take(mk_catalog(CACHE))
        assert ips.assigned[CACHE.key] == before[CACHE.key]
        assert not ips.waiting, "what is known needs no store"

    assert json.loads((tmp_path / "state" / "virtual-ips.json").read_text())["default/db"] == before[DB.key]


async def test_what_an_earlier_release_wrote_is_kept(tmp_path: Path) -> None:
    """Also the address that has since become the shared one; that is said."""
    (tmp_path / "virtual-ips.json").write_text('{\n  "default/db": "127.64.0.1",\n  "default/old": "127.70.1.2"\n}')

    with capture_logs() as logs:
        async with opened(tmp_path) as ips:
            given = await assign(ips, mk_catalog(DB, CACHE))

    assert given[DB.key] == "127.64.0.1"
    assert given[CACHE.key] not in ("127.64.0.1", "127.70.1.2")
    assert [(e["service"], e["address"]) for e in logs if e["event"] == "bridge.virtual_ip_shared"] == [
        ("default/db", "127.64.0.1")
    ]


async def test_names_with_dots_are_told_apart(tmp_path: Path) -> None:
    """`a.b` in `c` and `a` in `b.c` read the same with a dot between name and namespace."""
    one = mk_service("a.b", namespace="c", protocol=Protocol.TCP)
    two = mk_service("a", namespace="b.c", protocol=Protocol.TCP)

    async with opened(tmp_path) as ips:
        given = await assign(ips, mk_catalog(one, two))

    assert given[one.key] != given[two.key]


async def test_a_disk_that_cannot_be_written_costs_new_services_alone_and_only_for_a_while(tmp_path: Path) -> None:
    """Who has an address keeps it; who got none is tried again, though no catalog comes."""
    directory = tmp_path / "state"
    async with opened(directory) as ips:
        before = await assign(ips, mk_catalog(DB))
        shutil.rmtree(directory)

        with capture_logs() as logs:
            assert await assign(ips, mk_catalog(DB, CACHE, changed=("cache",))) == before
        assert ips.waiting == {"default/cache": CACHE.key}
        (failed,) = (e for e in logs if e["event"] == "bridge.virtual_ips_failed")
        assert f"store directory {directory}: virtual-ips.json: No such file" in failed["error"]

        directory.mkdir()
        await eventually(lambda: not ips.waiting, "it gets one")
        assert ips.changed.is_set()
        assert ips.assigned[DB.key] == before[DB.key]
        assert CACHE.key in ips.assigned
        assert set(json.loads((directory / KEY).read_text())) == {"default/db", "default/cache"}
        assert ips.problem == ""


async def test_a_range_that_is_used_up_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path, "127.64.0.0/30") as ips:
        services = [mk_service(f"s{i}", protocol=Protocol.TCP) for i in range(3)]
        await assign(ips, mk_catalog(*services))
        assert "127.64.0.0/30" in ips.problem


async def test_a_range_that_the_known_addresses_are_not_in_is_refused(tmp_path: Path) -> None:
    """Otherwise callers would go on connecting to the old ones."""
    async with opened(tmp_path) as ips:
        await assign(ips, mk_catalog(DB))

    with pytest.raises(StateError, match=r"virtual-ips\.json"):
        async with opened(tmp_path, "127.10.0.0/16"):
            pass


async def test_two_that_see_new_services_at_once_never_disagree(tmp_path: Path) -> None:
    """In whatever order, and though many of the names hash to few addresses."""
    services = [mk_service(f"s{i}", protocol=Protocol.TCP) for i in range(100)]
    async with opened(tmp_path, "127.64.0.0/25") as one, opened(tmp_path, "127.64.0.0/25") as other:

        async def see(ips: VirtualIPs, order: list[Service]) -> None:
            for start in range(0, len(order), 5):
                ips.take(mk_catalog(*order[start : start + 5]))
                await ips.settle()

        await asyncio.gather(see(one, services), see(other, services[::-1]))
        await eventually(lambda: not one.waiting and not other.waiting, "all have one")
        assert one.assigned == other.assigned
        assert len(set(one.assigned.values())) == 100
        assert one.problem == other.problem == ""


async def test_a_start_while_the_store_is_down_goes_by_the_copy(tmp_path: Path) -> None:
    """What is served goes on at its address; new services wait until the store is back."""
    store, away, copy = tmp_path / "store", tmp_path / "away", tmp_path / "state"
    copy.mkdir()
    async with opened(store, copy=copy) as ips:
        before = await assign(ips, mk_catalog(DB))
    ips = VirtualIPs(DirectoryStore(store), NETWORK, copy)
    store.rename(away)

    await ips.load()
    running = asyncio.create_task(ips.run())
    assert await assign(ips, mk_catalog(DB, CACHE)) == before
    assert "virtual-ips.json" in ips.problem
    away.rename(store)
    await eventually(lambda: not ips.waiting and not ips.problem, "the store is back")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert ips.assigned[DB.key] == before[DB.key]
    assert json.loads((store / KEY).read_text()) == json.loads((copy / KEY).read_text())


async def test_a_new_store_takes_over_the_addresses_of_the_old_one(tmp_path: Path) -> None:
    """Whoever moves from the directory to another store moves no service; of two that do, the first one's word holds."""
    for name, address in (("one", "127.64.0.7"), ("two", "127.64.0.8")):
        (tmp_path / name).mkdir()
        (tmp_path / name / KEY).write_text(json.dumps({"default/db": address}))

    with capture_logs() as logs:
        async with opened(tmp_path / "store", copy=tmp_path / "one") as one:
            assert (tmp_path / "store" / KEY).exists(), "it was handed over"
            async with opened(tmp_path / "store", copy=tmp_path / "two") as two:
                assert await assign(one, mk_catalog(DB)) == await assign(two, mk_catalog(DB)) == {DB.key: "127.64.0.7"}
                await eventually(lambda: "127.64.0.7" in (tmp_path / "two" / KEY).read_text(), "the copy follows")

    moved = [e for e in logs if e["event"] == "bridge.virtual_ip_moved"]
    assert [(e["service"], e["before"], e["after"]) for e in moved] == [("default/db", "127.64.0.8", "127.64.0.7")]
