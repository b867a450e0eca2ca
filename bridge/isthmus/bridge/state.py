"""The addresses of TCP services: kept in the store, the same for all replicas and after a restart."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import structlog

from isthmus.registry import vip
from isthmus.registry.adapter import AdapterError
from isthmus.registry.atomic import write_atomically
from isthmus.registry.kv.edge import Store
from isthmus.registry.model import Catalog, ServiceKey

log = structlog.get_logger()

KEY = "virtual-ips.json"
"""In the store, and the file's name in `state_dir`: `{"<namespace>/<name>": "127.64.x.y"}`."""

LOAD_WITHIN = 5.0
"""Seconds that a start waits for the store."""
SETTLE_WITHIN = 0.5
"""Seconds that a change waits for new services to get their addresses; then it goes on without them."""
ATTEMPTS = 50
"""Of replicas that write at once, all but one come too late, and read again."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 10.0

_record = msgspec.json.Decoder(dict[str, str])


class StateError(Exception):
    """What is kept cannot be used, or cannot be trusted; one sentence for the operator."""


class VirtualIPs:
    """The loopback address of each service that is not only HTTP; once given, never changed.

    Whoever sees a new service writes its address to the store, if nobody else has meanwhile; where the store cannot be written,
    the service has to wait, and those that have an address keep it. `directory` has a copy for starts while the store is down;
    None where the store is that directory.
    """

    def __init__(self, store: Store, network: str, directory: Path | None) -> None:
        self.assigned: Mapping[ServiceKey, str] = {}
        """The same object for as long as nothing in it differs."""
        self.waiting: dict[str, ServiceKey] = {}
        """Services that need an address and have none yet."""
        self.problem = ""
        """Why, if not for the moment that it takes."""
        self.changed = asyncio.Event()
        """Set when `assigned` is another one."""
        self._store = store
        self._network = network
        self._directory = directory
        self._known: dict[str, str] = {}
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()

    async def load(self) -> None:
        """Learn which addresses were given so far: from the store, or the copy of it if the store is down.

        Raises:
            StateError: a directory is the store and cannot be used, or what is known cannot be.

        """
        if self._directory is not None:
            self._known = await asyncio.to_thread(read_virtual_ips, self._directory, self._network)
            self._directory.mkdir(parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(LOAD_WITHIN):
                await self._agree(())
        except (AdapterError, StateError, TimeoutError) as e:
            error = str(e) or f"store {self._store.where}: no answer within {LOAD_WITHIN:g} s"
            if self._directory is None:
                raise StateError(error) from None
            self._failed(error)
            self._wanted.set()
        shared = vip.shared_address(self._network)
        for name in (name for name, address in self._known.items() if address == shared):
            log.warning("bridge.virtual_ip_shared", service=name, address=shared)

    def take(self, catalog: Catalog) -> None:
        """Give those services of a catalog that need one the address they have; the others wait for one."""
        keys = catalog.services.keys() if catalog.changed is None else catalog.changed
        wanted = {
            f"{key.namespace}/{key.name}": key
            for key in keys
            if key not in self.assigned
            and (service := catalog.services.get(key)) is not None
            and any(not p.protocol.is_http for p in service.ports)
        }
        if known := {key: self._known[name] for name, key in wanted.items() if name in self._known}:
            self.assigned = {**self.assigned, **known}
        if waiting := {name: key for name, key in wanted.items() if name not in self._known}:
            self.waiting |= waiting
            self._tried.clear()
            self._wanted.set()

    async def settle(self) -> None:
        """Wait a moment for those that wait, unless it is known that they wait for longer."""
        if self.waiting and not self.problem:
            try:
                async with asyncio.timeout(SETTLE_WITHIN):
                    await self._tried.wait()
            except TimeoutError:
                pass

    async def run(self) -> None:
        """Write what is wanted, again and again where it fails; until cancelled."""
        backoff = FIRST_BACKOFF
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            names = frozenset(self.waiting)
            try:
                await self._agree(names)
            except (AdapterError, StateError) as e:
                self._failed(str(e))
                self._tried.set()
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - so that replicas do not come in step
                backoff = min(LONGEST_BACKOFF, 2 * backoff)
                self._wanted.set()
            else:
                if self.problem:
                    log.info("bridge.virtual_ips_recovered", waited=len(names))
                self.problem, backoff = "", FIRST_BACKOFF
                if not self.waiting:
                    self._tried.set()

    async def _agree(self, names: Collection[str]) -> None:
        """Make the store's record one that has these names, and take it over."""
        for attempt in range(ATTEMPTS):
            stored, version = await self._stored()
            united, displaced = vip.reconcile(stored, self._known)
            agreed = self._allocate(united, {*names, *displaced})
            if agreed == stored or await self._store.put(KEY, self._text(agreed), version):
                self._put(agreed, displaced)
                await self._save(agreed)
                return
            await asyncio.sleep(random.uniform(0, 0.01 * (attempt + 1)))  # noqa: S311 - the others are to be done first
        raise StateError(f"store {self._store.where}: {KEY}: somebody else has changed it {ATTEMPTS} times in a row")

    def _put(self, agreed: dict[str, str], displaced: Mapping[str, str]) -> None:
        self._known = agreed
        for name, address in displaced.items():
            log.warning("bridge.virtual_ip_moved", service=name, before=address, after=agreed[name])
        now = {key: agreed[f"{key.namespace}/{key.name}"] for key in self.assigned}
        now |= {key: agreed[name] for name, key in self.waiting.items() if name in agreed}
        self.waiting = {name: key for name, key in self.waiting.items() if name not in agreed}
        if now != self.assigned:
            self.assigned = now
            self.changed.set()

    async def _stored(self) -> tuple[dict[str, str], str]:
        """The store's record, and its version."""
        entry = await self._store.get(KEY)
        if entry is None:
            return {}, ""
        try:
            return _record.decode(entry.value), entry.version
        except msgspec.MsgspecError as e:
            raise StateError(_damaged(f"store {self._store.where}: {KEY}", e)) from None

    def _allocate(self, known: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
        try:
            return vip.allocate(known, names, self._network)
        except ValueError as e:
            raise StateError(_damaged(f"store {self._store.where}: {KEY}", e)) from None

    def _text(self, record: dict[str, str]) -> bytes:
        text = msgspec.json.encode(record)
        return msgspec.json.format(text) if self._directory is None else text  # a file is read by people

    async def _save(self, record: dict[str, str]) -> None:
        if self._directory is None:
            return
        text = msgspec.json.format(msgspec.json.encode(record))
        try:
            await asyncio.to_thread(write_atomically, self._directory / KEY, text)
        except OSError as e:
            log.warning("bridge.virtual_ips_not_saved", file=str(self._directory / KEY), error=e.strerror)

    def _failed(self, error: str) -> None:
        if error != self.problem:
            # The services that have their address go on; the others get no listener and are named as conflicts.
            log.error("bridge.virtual_ips_failed", error=error, waiting=sorted(self.waiting)[:10])
        self.problem = error


def read_virtual_ips(directory: Path, network: str) -> dict[str, str]:
    """The addresses that were given so far; none when the directory is yet to be made. Changes nothing.

    Raises:
        StateError: the directory cannot be used, or what is in it is damaged.

    """
    path = directory / KEY
    try:
        nearest = next(d for d in (directory, *directory.absolute().parents) if d.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        known = _record.decode(path.read_bytes()) if path.exists() else {}
        vip.allocate(known, (), network)
    except OSError as e:
        raise _unusable(directory, e) from None
    except (msgspec.MsgspecError, ValueError) as e:
        raise StateError(_damaged(str(path), e)) from None
    return known


def _damaged(where: str, error: Exception) -> str:
    return f"{where}: {error}; repair it, or move it away to have all addresses given anew"


def _unusable(directory: Path, error: OSError) -> StateError:
    return StateError(
        f"state_dir {directory}: {error.strerror}; isthmus keeps the addresses of TCP services there and must write it"
    )
