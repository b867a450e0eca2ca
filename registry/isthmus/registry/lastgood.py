"""The last known good state of an origin, on disk: what is served when a bridge starts while its registry is down.

A file is a line of text (format, checksum, seconds since the epoch) and the snapshot in MessagePack. It is replaced atomically: a
crash leaves the old one; what does not match its checksum is set aside and said so, never served and never in the way.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import structlog

from isthmus.registry.atomic import write_atomically
from isthmus.registry.model import Origin, Service, Snapshot

log = structlog.get_logger()

FORMAT = b"isthmus-lastgood-1"
MAX_BYTES = 1 << 30


class Saved(msgspec.Struct, frozen=True):
    """A snapshot as it was saved. `saved_at` is in seconds since the epoch."""

    snapshot: Snapshot
    saved_at: float


class _Written(msgspec.Struct, array_like=True):
    """The form on disk: a mapping cannot have structured keys, so services carry their own."""

    origin: Origin
    services: list[msgspec.Raw]
    cursor: str


_encoder = msgspec.msgpack.Encoder()
_written = msgspec.msgpack.Decoder(_Written)
_service = msgspec.msgpack.Decoder(Service)


class LastGood:
    """One origin's file."""

    def __init__(self, directory: Path, origin: Origin) -> None:
        self._path = directory / f"{origin.name}.lastgood"
        self._origin = origin

    def load(self) -> Saved | None:
        """What was saved last; None when there is nothing that can be trusted. Takes as long as `save`.

        A damaged file, one of another format, and one that another kind of registry wrote are set aside.
        """
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as e:
            log.warning("lastgood.not_read", origin=self._origin.name, file=str(self._path), reason=e.strerror)
            return None
        try:
            return self._parse(text)
        except (ValueError, msgspec.MsgspecError) as e:
            aside = self._path.with_suffix(f".damaged-{int(time.time())}")
            self._path.replace(aside)
            log.warning("lastgood.set_aside", origin=self._origin.name, file=str(aside), reason=str(e))
            return None

    def _parse(self, text: bytes) -> Saved:
        head, _, body = text.partition(b"\n")
        name, checksum, saved_at = head.split(b" ")
        if name != FORMAT:
            raise ValueError(f"its format is {name[:40]!r}, this is {FORMAT!r}")
        if checksum.decode() != _checksum(body):
            raise ValueError("its checksum does not match: it was damaged or cut off")
        written = _written.decode(body)
        if written.origin.kind != self._origin.kind:
            raise ValueError(f"a registry of kind {written.origin.kind} wrote it, this one is {self._origin.kind}")
        services = {s.key: s for s in map(_service.decode, written.services)}
        return Saved(Snapshot(self._origin, services, written.cursor), float(saved_at))

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file. Takes tens of milliseconds per 10,000 instances: call it in a thread.

        Raises:
            OSError: it cannot be written.

        """
        # Each by itself: while something is encoded, nothing else runs in the whole process.
        services = [msgspec.Raw(_encoder.encode(service)) for service in snapshot.services.values()]
        body = _encoder.encode(_Written(self._origin, services, snapshot.cursor))
        write_atomically(self._path, b"%s %s %.3f\n%s" % (FORMAT, _checksum(body).encode(), time.time(), body))


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
