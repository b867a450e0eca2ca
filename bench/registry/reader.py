"""`python -m bench.registry.reader KIND OPTIONS`: what is measured, an adapter with its source and the hub, by itself.

It is what a bridge runs left of the translation: adapter, guard, drain, merge, as configured by default. Only the state is not
saved on disk, which `save` measures by itself. Nothing else happens in this process, so that its CPU and memory are theirs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bench.machine import resident_kb
from bench.registry.lines import commands, reply
from bench.registry.population import State
from isthmus.registry.adapter import Adapter
from isthmus.registry.consul import ConsulAdapter, ConsulConfig
from isthmus.registry.etcd import EtcdAdapter, EtcdConfig
from isthmus.registry.eureka import EurekaAdapter, EurekaConfig
from isthmus.registry.hub import Hub
from isthmus.registry.lastgood import LastGood
from isthmus.registry.model import Catalog, Health, Instance, Origin, ServiceKey, Snapshot
from isthmus.registry.nomad import NomadAdapter, NomadConfig
from isthmus.registry.origin import OriginStatus
from isthmus.registry.source import SourceRules

PATIENCE = 120.0
"""Seconds for the first listing."""


def to_adapter(status: OriginStatus, options: Mapping[str, Any]) -> Adapter:
    """The adapter of a kind of registry, with options as in isthmus.yaml."""
    match status.origin.kind:
        case "consul":
            return ConsulAdapter(status.origin, msgspec.convert(options, ConsulConfig), status)
        case "etcd":
            return EtcdAdapter(status.origin, msgspec.convert(options, EtcdConfig), status)
        case "eureka":
            return EurekaAdapter(status.origin, msgspec.convert(options, EurekaConfig), status)
        case kind:
            assert kind == "nomad", f"no adapter for {kind}"
            return NomadAdapter(status.origin, msgspec.convert(options, NomadConfig), status)


class Expected:
    """States that the catalog is expected to show, each told once by an event when it does."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[tuple[int, State]]] = {}

    def add(self, states: list[State]) -> None:
        """In place of those before; told by their number."""
        self._by_name.clear()
        for number, state in enumerate(states):
            self._by_name.setdefault(state.name, []).append((number, state))

    def heard(self, catalog: Catalog, now: float) -> None:
        """Look at what has changed."""
        for key in catalog.changed or ():
            if key.name not in self._by_name or key not in catalog.services:
                continue
            instances = catalog.services[key].instances
            left = []
            for number, state in self._by_name[key.name]:
                if any(shows(instance, state) for instance in instances):
                    reply(event="arrived", number=number, at=now)
                else:
                    left.append((number, state))
            self._by_name[key.name] = left


def shows(instance: Instance, state: State) -> bool:
    """Whether this is the instance, and so."""
    return (
        instance.address == state.address
        and instance.weight == state.weight
        and (instance.health is Health.HEALTHY) == state.healthy
    )


class _Reader:
    def __init__(self, kind: str, options: Mapping[str, Any]) -> None:
        self._status = OriginStatus(Origin(kind, kind))
        self._adapter = to_adapter(self._status, options)
        self._hub = Hub(SourceRules(), PATIENCE)
        self._expected = Expected()
        self._catalog: Catalog | None = None
        self._first = asyncio.Event()

    async def run(self) -> None:
        gc.collect()
        before, began = resident_kb(os.getpid()), time.monotonic()
        self._hub.add(self._adapter, self._status)
        following = asyncio.create_task(self._follow())
        answering = asyncio.create_task(self._answer(began, before))
        done, _ = await asyncio.wait((following, answering), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await self._hub.close()

    async def _follow(self) -> None:
        async for catalog in self._hub.catalogs():
            now = time.monotonic()
            self._catalog = catalog
            self._first.set()
            self._expected.heard(catalog, now)

    async def _answer(self, began: float, before: float) -> None:
        await self._first.wait()
        assert self._catalog is not None
        instances = sum(len(service.instances) for service in self._catalog.services.values())
        reply(synced_s=time.monotonic() - began, services=len(self._catalog.services), instances=instances)
        async for command in commands():
            match command:
                case {"expect": states}:
                    self._expected.add(msgspec.convert(states, list[State]))
                    reply(ok=True)
                case {"collect": _}:
                    gc.collect()
                    reply(grown_kb=resident_kb(os.getpid()) - before)
                case {"save": _}:
                    reply(cpu_s=self._save())
                case _:
                    status = self._status
                    reply(cpu_s=time.process_time(), reads=status.reads, errors=status.errors)

    def _save(self) -> float:
        """CPU seconds that it takes to write the last known good state."""
        assert self._catalog is not None
        services: Mapping[ServiceKey, Any] = self._catalog.services
        with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
            file = LastGood(Path(directory), self._adapter.origin)
            before = time.process_time()
            file.save(Snapshot(self._adapter.origin, services))
            return time.process_time() - before


async def main(kind: str, options: str) -> None:
    """Read until there are no more commands."""
    await _Reader(kind, msgspec.json.decode(options)).run()


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(main(sys.argv[1], sys.argv[2]))
