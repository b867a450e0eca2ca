"""What every registry adapter keeps (`isthmus.registry.adapter`), as one suite.

An adapter joins with a World, which says how to do things to its registry, and a subclass:

    class TestConsul(AdapterContract):
        @pytest.fixture
        async def world(self, ...) -> AsyncIterator[World]: ...
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import TypeAlias

import pytest

from isthmus.registry.adapter import Adapter, AdapterError
from isthmus.registry.model import Service, Snapshot
from tests.wait import eventually

Instances: TypeAlias = Mapping[str, tuple[str, int]]
"""The instances of a service: address and port by id."""


class World(abc.ABC):
    """A real registry, empty at first, and what can happen to it."""

    notices_within: float = 10
    """Seconds after which the adapter has surely noticed that its registry cannot be read."""

    @abc.abstractmethod
    def make_adapter(self) -> Adapter:
        """An adapter that reads this registry."""

    @abc.abstractmethod
    async def set_service(self, name: str, instances: Instances) -> None:
        """Make these the instances of the service, and no others."""

    @abc.abstractmethod
    async def remove(self, name: str) -> None:
        """Take the service and all its instances away."""

    @abc.abstractmethod
    async def spoil(self) -> str:
        """Add an object that cannot be understood, beside the others; returns a word by which an operator would find it."""

    @abc.abstractmethod
    async def break_(self) -> None:
        """Make the registry unreadable, without changing what it holds."""

    @abc.abstractmethod
    async def heal(self) -> None:
        """Undo `break_`."""

    @abc.abstractmethod
    async def save(self) -> None:
        """Make a backup of what the registry holds."""

    @abc.abstractmethod
    async def restore(self) -> None:
        """Put the last backup in the place of what the registry holds, with whatever index it had then."""


class Following:
    """All that one adapter yielded, and the error that ended it. Each change hint is held against what really changed."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.snapshots: list[Snapshot] = []
        self.error: AdapterError | None = None

    async def run(self) -> None:
        try:
            async for snapshot in self._adapter.snapshots():
                if self.snapshots:
                    _check_hint(self.snapshots[-1], snapshot)
                self.snapshots.append(snapshot)
        except AdapterError as e:
            self.error = e

    @property
    def latest(self) -> Snapshot:
        assert self.snapshots, f"nothing was yielded yet (error: {self.error})"
        return self.snapshots[-1]

    def service(self, name: str) -> Service | None:
        """The service of this name in the latest snapshot."""
        return next((s for s in self.latest.services.values() if s.key.name == name), None)

    def addresses(self, name: str) -> dict[str, int]:
        """Address to port, for the instances of this service in the latest snapshot."""
        service = self.service(name)
        return {i.address: next(iter(i.ports.values())) for i in service.instances} if service else {}


def _check_hint(before: Snapshot, after: Snapshot) -> None:
    if after.changed is not None:
        keys = before.services.keys() | after.services.keys()
        differ = {k for k in keys if before.services.get(k) != after.services.get(k)}
        assert differ <= after.changed, f"changed without being named: {differ - after.changed}"


@contextlib.asynccontextmanager
async def following(adapter: Adapter) -> AsyncIterator[Following]:
    """Iterate the adapter in the background. A failed assertion about what it yields surfaces at the end."""
    seen = Following(adapter)
    task = asyncio.create_task(seen.run())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class AdapterContract:
    """The suite. Subclasses give the fixture `world`."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    async def test_the_first_snapshot_is_complete(self, world: World) -> None:
        for n in range(5):
            await world.set_service(f"svc-{n}", {f"svc-{n}-{i}": (f"10.0.{n}.{i}", 8080) for i in range(1, 4)})
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
        first = seen.snapshots[0]
        assert sorted(k.name for k in first.services) == [f"svc-{n}" for n in range(5)]
        assert [len(s.instances) for s in first.services.values()] == [3] * 5
        assert first.changed is None

    async def test_an_empty_registry_is_an_empty_snapshot(self, world: World) -> None:
        """Nothing is an answer too: a bridge on an empty registry becomes ready."""
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            assert seen.latest.services == {}

    async def test_what_is_yielded_names_its_origin(self, world: World) -> None:
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        adapter = world.make_adapter()
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            assert seen.latest.origin == adapter.origin
            assert {i.origin for s in seen.latest.services.values() for i in s.instances} == {adapter.origin.name}

    async def test_services_and_instances_come_and_go(self, world: World) -> None:
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 8080}, "web")
            await world.set_service("api", {"api-1": ("10.0.1.1", 9090)})
            await eventually(lambda: seen.addresses("api") == {"10.0.1.1": 9090}, "a new service")
            await world.set_service("web", {"web-1": ("10.0.0.1", 8080), "web-2": ("10.0.0.2", 8080)})
            await eventually(lambda: len(seen.addresses("web")) == 2, "a further instance")
            await world.set_service("web", {"web-2": ("10.0.0.2", 8080)})
            await eventually(lambda: seen.addresses("web") == {"10.0.0.2": 8080}, "one instance less")
            assert seen.addresses("api") == {"10.0.1.1": 9090}

    async def test_an_emptied_service_disappears(self, world: World) -> None:
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        await world.set_service("api", {"api-1": ("10.0.1.1", 9090)})
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: len(seen.latest.services) == 2, "both services")
            await world.remove("web")
            await eventually(lambda: seen.service("web") is None, "web is gone")
            assert seen.service("api") is not None

    async def test_an_instance_that_moved_is_one_instance(self, world: World) -> None:
        """The same id with a new address replaces the old one; there is never a moment with both."""
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 8080}, "the old address")
            before = seen.service("web")
            await world.set_service("web", {"web-1": ("10.0.0.9", 8081)})
            await eventually(lambda: seen.addresses("web") == {"10.0.0.9": 8081}, "the new address")
            after = seen.service("web")
        assert before is not None
        assert after is not None
        assert [i.id for i in after.instances] == [i.id for i in before.instances]
        assert all(len(s.instances) == 1 for snapshot in seen.snapshots for s in snapshot.services.values())

    async def test_equal_content_gives_equal_values(self, world: World) -> None:
        """Also to another adapter, as after a restart or on a second replica."""
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080), "web-2": ("10.0.0.2", 8080)})
        async with following(world.make_adapter()) as first, following(world.make_adapter()) as second:
            await eventually(lambda: len(first.addresses("web")) == 2, "the first adapter's view")
            await eventually(lambda: len(second.addresses("web")) == 2, "the second adapter's view")
            assert first.latest.services == second.latest.services

    async def test_a_bad_object_is_quarantined_by_name_and_the_rest_goes_on(self, world: World) -> None:
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        async with following(world.make_adapter()) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            first = seen.latest
            assert first.quarantined == ()
            word = await world.spoil()
            await eventually(lambda: seen.latest.quarantined, "the quarantine")
            (bad,) = seen.latest.quarantined
            assert word in bad.where
            assert bad.reason
            assert bad.origin == seen.latest.origin.name
            await world.set_service("api", {"api-1": ("10.0.1.1", 9090)})
            await eventually(lambda: seen.service("api"), "the rest goes on")
            assert seen.service("web") is not None

    async def test_an_error_yields_nothing_and_is_raised(self, world: World) -> None:
        """Stale beats partial: not one snapshot comes from a registry that cannot be read."""
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        adapter = world.make_adapter()
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            count = len(seen.snapshots)
            await world.break_()
            try:
                await eventually(lambda: seen.error, "an AdapterError", timeout=world.notices_within)
            finally:
                await world.heal()
            assert len(seen.snapshots) == count
            assert str(seen.error)
        async with following(adapter) as again:
            await eventually(lambda: again.addresses("web") == {"10.0.0.1": 8080}, "the listing after it healed")

    async def test_a_registry_that_is_broken_from_the_start_yields_nothing(self, world: World) -> None:
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        await world.break_()
        try:
            async with following(world.make_adapter()) as seen:
                await eventually(lambda: seen.error, "an AdapterError", timeout=world.notices_within)
            assert seen.snapshots == []
        finally:
            await world.heal()

    async def test_a_restored_backup_is_listed_again(self, world: World) -> None:
        """The index goes back; what was added since the backup goes, and later changes are noticed."""
        await world.set_service("old", {"old-1": ("10.0.0.1", 8080)})
        await world.save()
        adapter = world.make_adapter()
        async with following(adapter) as seen:
            await world.set_service("new", {"new-1": ("10.0.0.2", 8080)})
            await eventually(lambda: seen.service("new"), "the service that is not in the backup")
            await world.restore()
            await eventually(
                lambda: seen.error or not seen.service("new"), "it is noticed", timeout=world.notices_within
            )
        async with following(adapter) as again:
            await eventually(lambda: [k.name for k in again.latest.services] == ["old"], "what the backup holds")
            await world.set_service("newer", {"newer-1": ("10.0.0.3", 8080)})
            await eventually(lambda: again.service("newer"), "a change after the restoration")

    async def test_a_listing_says_what_the_snapshots_say(self, world: World) -> None:
        """It is read anew, beside an iteration and without one."""
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        adapter = world.make_adapter()
        assert [k.name for k in (await adapter.listing()).services] == ["web"]
        async with following(adapter) as seen:
            await world.set_service("api", {"api-1": ("10.0.1.1", 9090)})
            await eventually(lambda: seen.service("api"), "a new service")
            listed = await adapter.listing()
            assert listed.services == seen.latest.services
            assert listed.changed is None
            assert listed.origin == adapter.origin

    async def test_a_listing_of_a_registry_that_cannot_be_read_is_an_error(self, world: World) -> None:
        before = asyncio.all_tasks()
        await world.break_()
        try:
            with pytest.raises(AdapterError):
                await asyncio.wait_for(world.make_adapter().listing(), world.notices_within)
        finally:
            await world.heal()
        assert asyncio.all_tasks() == before

    async def test_cancelling_returns_at_once_and_leaves_no_task(self, world: World) -> None:
        """From inside a blocking read, within 100 ms."""
        await world.set_service("web", {"web-1": ("10.0.0.1", 8080)})
        before = asyncio.all_tasks()
        seen = Following(world.make_adapter())
        task = asyncio.create_task(seen.run())
        await eventually(lambda: seen.snapshots, "a first snapshot")
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.1
        assert asyncio.all_tasks() == before

    async def test_closing_the_iterator_leaves_no_task(self, world: World) -> None:
        before = asyncio.all_tasks()
        snapshots = world.make_adapter().snapshots()
        await anext(snapshots)
        await snapshots.aclose()  # type: ignore[attr-defined]  # every adapter is an async generator
        assert asyncio.all_tasks() == before
