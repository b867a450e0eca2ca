"""The names that were known last, on disk: what is answered when an agent starts while the bridge is away.

A file is a line of text (format, checksum, seconds since the epoch) and the resources in MessagePack, replaced atomically. One
that was damaged is set aside, never used.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from isthmus.registry.atomic import write_atomically

log = structlog.get_logger()

FORMAT = b"isthmus-dns-names-1"
MAX_BYTES = 1 << 28


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A resource as the bridge sent it."""

    version: str
    body: bytes


_decoder = msgspec.msgpack.Decoder(dict[str, Held])


class Saved:
    """The file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "dns-names"

    def load(self) -> tuple[Mapping[str, Held], float]:
        """Resources by name, and when they were saved (seconds since the epoch); none when there are none to be trusted."""
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_BYTES)
        except FileNotFoundError:
            return {}, 0
        except OSError as e:
            log.warning("dns.names_not_read", file=str(self._path), reason=e.strerror)
            return {}, 0
        try:
            return _parse(text)
        except (ValueError, msgspec.MsgspecError) as e:
            aside = self._path.with_suffix(f".damaged-{int(time.time())}")
            self._path.replace(aside)
            log.warning("dns.names_set_aside", file=str(aside), reason=str(e))
            return {}, 0

    def save(self, resources: Mapping[str, Held]) -> None:
        """Replace the file. Blocks; a failure is logged, for answers do not depend on it."""
        body = msgspec.msgpack.encode(resources)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, b"%s %s %.3f\n%s" % (FORMAT, _checksum(body).encode(), time.time(), body))
        except OSError as e:
            log.warning("dns.names_not_saved", file=str(self._path), reason=e.strerror)


def _parse(text: bytes) -> tuple[Mapping[str, Held], float]:
    head, _, body = text.partition(b"\n")
    name, checksum, saved_at = head.split(b" ")
    if name != FORMAT or checksum.decode() != _checksum(body):
        raise ValueError("its checksum or its format does not match")
    return _decoder.decode(body), float(saved_at)


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
