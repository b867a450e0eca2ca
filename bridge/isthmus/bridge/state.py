"""The bridge's state directory: what must be the same after a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from isthmus.registry import vip
from isthmus.registry.model import Catalog, ServiceKey


class StateError(Exception):
    """The state directory cannot be used, or what is in it cannot be trusted; one sentence for the operator."""


class VirtualIPs:
    """The loopback address of each service that is not only HTTP; once given, never changed.

    Kept in `virtual-ips.json` as `{"<name>.<namespace>": "127.64.x.y"}`.
    """

    def __init__(self, directory: Path, network: str) -> None:
        self._path = directory / "virtual-ips.json"
        self._network = network
        self._assigned: dict[ServiceKey, str] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
            text = self._path.read_bytes() if self._path.exists() else b"{}"
            self._known = msgspec.json.decode(text, type=dict[str, str])
            vip.allocate(self._known, (), network)
        except OSError as e:
            raise StateError(
                f"state_dir {directory}: {e.strerror}; isthmus keeps virtual IPs there and must write it"
            ) from None
        except (msgspec.MsgspecError, ValueError) as e:
            raise StateError(
                f"{self._path}: {e}; repair it, or move it away to have all addresses given anew"
            ) from None

    async def assign(self, catalog: Catalog) -> Mapping[ServiceKey, str]:
        """Addresses for all services that need one; new ones are on disk before they are used.

        The same mapping object is returned for as long as nothing is added to it.

        Raises:
            StateError: they cannot be written, or the range is used up.

        """
        keys = catalog.services if catalog.changed is None else catalog.changed
        wanted = {
            str(key): key
            for key in keys
            if key not in self._assigned
            and (service := catalog.services.get(key)) is not None
            and any(not p.protocol.is_http for p in service.ports)
        }
        if wanted.keys() - self._known.keys():
            try:
                known = vip.allocate(self._known, wanted, self._network)
                await asyncio.to_thread(write_atomically, self._path, msgspec.json.format(msgspec.json.encode(known)))
            except OSError as e:
                raise StateError(f"{self._path}: {e.strerror}") from None
            except ValueError as e:
                raise StateError(str(e)) from None
            self._known = known
        if wanted:
            self._assigned = {**self._assigned, **{key: self._known[name] for name, key in wanted.items()}}
        return self._assigned


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
