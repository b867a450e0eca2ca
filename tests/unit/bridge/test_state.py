"""Virtual IPs outlive the process, whatever happens to the disk."""

from __future__ import annotations

import ipaddress
import json
import shutil
from pathlib import Path

import pytest

from isthmus.bridge.state import StateError, VirtualIPs
from isthmus.registry.model import Catalog, Protocol, Service
from tests.world import mk_key, mk_service

NETWORK = "127.64.0.0/10"


def mk_catalog(*services: Service, changed: tuple[str, ...] | None = None) -> Catalog:
    return Catalog(
        {s.key: s for s in services}, changed=None if changed is None else frozenset(mk_key(name) for name in changed)
    )


DB, CACHE = (mk_service(name, port=5432, protocol=Protocol.TCP) for name in ("db", "cache"))
WEB = mk_service("web")


async def test_who_needs_an_address_gets_one_of_its_own(tmp_path: Path) -> None:
    """HTTP services share one listener and need none."""
    given = await VirtualIPs(tmp_path, NETWORK).assign(mk_catalog(DB, CACHE, WEB))

    assert set(given) == {DB.key, CACHE.key}
    assert len(set(given.values())) == 2
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network(NETWORK) for a in given.values())


async def test_addresses_are_the_same_after_a_restart(tmp_path: Path) -> None:
    before = dict(await VirtualIPs(tmp_path / "state", NETWORK).assign(mk_catalog(DB, CACHE)))

    after = await VirtualIPs(tmp_path / "state", NETWORK).assign(mk_catalog(CACHE))

    assert after[CACHE.key] == before[CACHE.key]
    assert json.loads((tmp_path / "state" / "virtual-ips.json").read_text())["default/db"] == before[DB.key]


async def test_names_with_dots_are_told_apart(tmp_path: Path) -> None:
    """`a.b` in `c` and `a` in `b.c` read the same with a dot between name and namespace."""
    one = mk_service("a.b", namespace="c", protocol=Protocol.TCP)
    two = mk_service("a", namespace="b.c", protocol=Protocol.TCP)

    given = await VirtualIPs(tmp_path, NETWORK).assign(mk_catalog(one, two))

    assert given[one.key] != given[two.key]


async def test_a_disk_that_cannot_be_written_costs_new_services_alone_and_only_for_a_while(tmp_path: Path) -> None:
    """Who has an address keeps it; who got none is tried again with the next catalog, though nothing hints at it."""
    directory = tmp_path / "state"
    ips = VirtualIPs(directory, NETWORK)
    before = dict(await ips.assign(mk_catalog(DB)))
    shutil.rmtree(directory)

    with pytest.raises(StateError, match=r"virtual-ips\.json: No such file or directory"):
        await ips.assign(mk_catalog(DB, CACHE, changed=("cache",)))

    directory.mkdir()
    after = await ips.assign(mk_catalog(DB, CACHE, WEB, changed=("web",)))
    assert after[DB.key] == before[DB.key]
    assert CACHE.key in after


async def test_a_range_that_is_used_up_is_said(tmp_path: Path) -> None:
    ips = VirtualIPs(tmp_path, "127.64.0.0/30")
    services = [mk_service(f"s{i}", protocol=Protocol.TCP) for i in range(3)]

    with pytest.raises(StateError, match=r"127\.64\.0\.0/30"):
        await ips.assign(mk_catalog(*services))


async def test_a_range_that_the_known_addresses_are_not_in_is_refused(tmp_path: Path) -> None:
    """Otherwise callers would go on connecting to the old ones."""
    await VirtualIPs(tmp_path, NETWORK).assign(mk_catalog(DB))

    with pytest.raises(StateError, match=r"virtual-ips\.json"):
        VirtualIPs(tmp_path, "127.10.0.0/16")
