"""The bridge's state directory: what must be the same after a restart."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from isthmus.registry import vip
from isthmus.registry.atomic import write_atomically
from isthmus.registry.model import Catalog, ServiceKey

_FILE = "virtual-ips.json"


class StateError(Exception):
    """The state directory cannot be used, or what is in it cannot be trusted; one sentence for the operator."""


class VirtualIPs:
    """The loopback address of each service that is not only HTTP; once given, never changed.

    Kept in `virtual-ips.json` as `{"<namespace>/<name>": "127.64.x.y"}`.
    """

    def __init__(self, directory: Path, network: str) -> None:
        self._path = directory / _FILE
        self._network = network
        self._assigned: dict[ServiceKey, str] = {}
        self._failed: frozenset[ServiceKey] = frozenset()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise _unusable(directory, e) from None
        self._known = read_virtual_ips(directory, network)

    async def assign(self, catalog: Catalog) -> Mapping[ServiceKey, str]:
        """Addresses for all services that need one; new ones are on disk before they are used.

        The same mapping object is returned for as long as nothing is added to it.

        Raises:
            StateError: they cannot be written, or the range is used up. The services concerned are tried again next time.

        """
        keys = catalog.services.keys() if catalog.changed is None else catalog.changed | self._failed
        wanted = {
            f"{key.namespace}/{key.name}": key
            for key in keys
            if key not in self._assigned
            and (service := catalog.services.get(key)) is not None
            and any(not p.protocol.is_http for p in service.ports)
        }
        self._failed = frozenset(wanted.values())
        if wanted.keys() - self._known.keys():
            try:
                known = vip.allocate(self._known, wanted, self._network)
                await asyncio.to_thread(write_atomically, self._path, msgspec.json.format(msgspec.json.encode(known)))
            except OSError as e:
                raise StateError(f"{self._path}: {e.strerror}") from None
            except ValueError as e:
                raise StateError(str(e)) from None
            self._known = known
        self._failed = frozenset()
        if wanted:
            self._assigned = {**self._assigned, **{key: self._known[name] for name, key in wanted.items()}}
        return self._assigned


def read_virtual_ips(directory: Path, network: str) -> dict[str, str]:
    """The addresses that were given so far; none when the directory is yet to be made. Changes nothing.

    Raises:
        StateError: the directory cannot be used, or what is in it is damaged.

    """
    path = directory / _FILE
    try:
        nearest = next(d for d in (directory, *directory.absolute().parents) if d.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}
        vip.allocate(known, (), network)
    except OSError as e:
        raise _unusable(directory, e) from None
    except (msgspec.MsgspecError, ValueError) as e:
        raise StateError(f"{path}: {e}; repair it, or move it away to have all addresses given anew") from None
    return known


def _unusable(directory: Path, error: OSError) -> StateError:
    return StateError(
        f"state_dir {directory}: {error.strerror}; isthmus keeps the addresses of TCP services there and must write it"
    )
