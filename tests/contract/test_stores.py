"""The stores that keep the contract."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from isthmus.registry.kv.config import ConsulStoreConfig, EtcdStoreConfig
from isthmus.registry.kv.consul import ConsulStore
from isthmus.registry.kv.directory import DirectoryStore
from isthmus.registry.kv.edge import Store, StoreError
from isthmus.registry.kv.etcd import EtcdStore
from tests.contract.store_contract import StoreContract, StoreWorld, watching
from tests.servers.consul import Consul
from tests.servers.etcd import LATEST, OLDEST, Etcd
from tests.wait import eventually


class DirectoryWorld(StoreWorld):
    """Unreadable means that the directory is away."""

    def __init__(self, parent: Path) -> None:
        self._directory = parent / "state"
        self._away = parent / "away"

    async def open(self) -> Store:
        return DirectoryStore(self._directory)

    async def break_(self) -> None:
        self._directory.rename(self._away)

    async def heal(self) -> None:
        self._away.rename(self._directory)


class TestDirectory(StoreContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> StoreWorld:
        return DirectoryWorld(tmp_path)

    async def test_what_is_no_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("")
        with pytest.raises(StoreError, match=r"store directory .*/state: File exists"):
            DirectoryStore(tmp_path / "state")


class ConsulWorld(StoreWorld):
    """An agent in development mode; unreadable means frozen."""

    def __init__(self, consul: Consul, stack: AsyncExitStack) -> None:
        self._consul = consul
        self._stack = stack

    async def open(self) -> Store:
        store = ConsulStore(ConsulStoreConfig(address=self._consul.address, prefix="mesh/isthmus"))
        self._stack.push_async_callback(store.close)
        return store

    async def break_(self) -> None:
        self._consul.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._consul.send_signal(signal.SIGCONT)
        await self._consul.ready()


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    consul = Consul(tmp_path_factory.mktemp("consul"))
    consul.start()
    try:
        asyncio.run(consul.ready())
        yield consul
    finally:
        consul.stop()


class TestConsul(StoreContract):
    @pytest.fixture
    async def world(self, consul: Consul) -> AsyncIterator[StoreWorld]:
        async with AsyncExitStack() as stack:
            yield ConsulWorld(consul, stack)
        await consul.request("DELETE", "/v1/kv/?recurse")

    async def test_a_restored_backup_ends_the_watch(self, world: StoreWorld, consul: Consul) -> None:
        """What is missing from it was not seen to go."""
        store = await world.open()
        await store.put("things/a", b"1", "")
        backup = await consul.request("GET", "/v1/snapshot")
        async with watching(store, "things") as seen:
            for n in range(20):
                await store.put(f"things/b{n}", b"2", "")
            await eventually(lambda: len(seen.latest) == 21, "what is not in the backup")
            await consul.request("PUT", "/v1/snapshot", backup)
            await eventually(lambda: seen.error, "the watch ends")
        async with watching(store, "things") as again:
            assert set(again.latest) == {"a"}

    async def test_a_token_that_may_not_is_one_sentence_without_the_token(self, tmp_path: Path) -> None:
        consul = await Consul.start_with_acls(tmp_path)
        token = "c6f1e0d4-0000-4f5f-9a1c-6c6f1e0d4a11"  # noqa: S105 - of nobody
        store = ConsulStore(ConsulStoreConfig(address=consul.address, token=token))
        allowed = ConsulStore(ConsulStoreConfig(address=consul.address, token=consul.token))
        try:
            with pytest.raises(
                StoreError, match=r"403 .*\(the token needs key_prefix 'isthmus/' with policy write\)"
            ) as e:
                await store.put("a", b"1", "")
            assert token not in str(e.value)
            assert await allowed.put("a", b"1", "")
        finally:
            await store.close()
            await allowed.close()
            consul.stop()


class EtcdWorld(StoreWorld):
    """One member; unreadable means frozen."""

    def __init__(self, etcd: Etcd, stack: AsyncExitStack) -> None:
        self._etcd = etcd
        self._stack = stack

    async def open(self) -> Store:
        store = EtcdStore(EtcdStoreConfig(endpoints=(self._etcd.address,), prefix="mesh/isthmus"))
        self._stack.push_async_callback(store.close)
        return store

    async def break_(self) -> None:
        self._etcd.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self._etcd.send_signal(signal.SIGCONT)
        await self._etcd.ready()


@pytest.fixture(scope="module", params=[OLDEST, LATEST])
def etcd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    etcd = asyncio.run(Etcd.start_one(tmp_path_factory.mktemp("etcd"), request.param))
    try:
        yield etcd
    finally:
        etcd.stop()


class TestEtcd(StoreContract):
    @pytest.fixture
    async def world(self, etcd: Etcd) -> AsyncIterator[StoreWorld]:
        async with AsyncExitStack() as stack:
            yield EtcdWorld(etcd, stack)
        await etcd.wipe()

    async def test_another_member_answers_when_one_dies(self, tmp_path: Path) -> None:
        members = await Etcd.start_cluster(tmp_path)
        store = EtcdStore(EtcdStoreConfig(endpoints=tuple(m.address for m in members)))
        try:
            version = await store.put("a", b"1", "")
            assert version
            assert store._session is not None
            (used,) = (m for m in members if store._session and m.address == store._session.endpoint)
            used.kill()
            await eventually(lambda: store.put("b", b"2", ""), "another one takes it", timeout=20)
            found = await store.get("a")
            assert found is not None
            assert found.version == version
        finally:
            await store.close()
            for member in members:
                member.stop()
