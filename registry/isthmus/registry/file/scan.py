"""Reading the files, believing only what has come to rest.

Theory of operation. A file that is renamed into place is whole at once. One that is written in place passes through states that
may well be valid YAML, with fewer services than there are; so a file that changed under the same inode is read only when it has
rested for `SETTLE` seconds, and one that was read sooner after its last change is read again. A file that has gone is believed
gone after the same time, because editors move the old one away before they write the new one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from isthmus.registry.document import Document, Problem, parse_document
from isthmus.registry.file.find import Found, find
from isthmus.registry.file.unite import carry

SETTLE = 0.05
"""Seconds without a change after which a file counts as finished."""
LONGEST_SETTLE = 1.0
"""Seconds after which a file that never rests is read all the same."""
MAX_BYTES = 16 * 1024 * 1024
"""Bytes that a file may have."""


class FileState(msgspec.Struct, frozen=True):
    """One file as it was read last.

    `document` is what holds. `seen` is the device, inode, size and modification time (ns) that it was read with. `unsettled`
    is the epoch second since when a change, or its absence, waits to be believed; None when nothing does.
    """

    document: Document | None = None
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    digest: str = ""
    unsettled: float | None = None


class Listing(msgspec.Struct, frozen=True):
    """All files by name, and where they were looked for."""

    files: Mapping[str, FileState] = {}
    found: Found = Found({}, {})

    @property
    def settled(self) -> bool:
        """Whether nothing has to be looked at again soon."""
        return all(f.unsettled is None for f in self.files.values())

    @property
    def digest(self) -> str:
        """A hash of the names and contents."""
        content = "".join(f"{name}\0{self.files[name].digest}\0" for name in sorted(self.files))
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def scan(patterns: Iterable[str], before: Listing, origin: str, now: float, *, anew: bool) -> Listing:
    """Read what changed since the listing before. `now` is the epoch second, to compare with the files' times.

    `anew` says that nobody looked since that listing: a file that is gone is believed gone at once.

    Raises:
        OSError: a path is not there, cannot be listed, or is suddenly an empty directory.

    """
    found = find(patterns)
    for pattern, place in found.places.items():
        was = before.found.places.get(pattern)
        if was is not None and was.files and not place.files and place.identity != was.identity:
            # An unmounted volume leaves the empty directory that it was mounted on.
            reason = "has become another directory, without files; one with `services: []` would be believed"
            raise OSError(errno.ENOENT, reason, str(place.begin))
    files = {
        name: _read(path, name, before.files.get(name, FileState()), origin, now) for name, path in found.files.items()
    }
    for name, state in before.files.items():
        if name not in files:
            gone_since = now if state.unsettled is None else state.unsettled
            if now - gone_since < SETTLE and not anew:
                files[name] = msgspec.structs.replace(state, unsettled=gone_since)
    return Listing(files, found)


def _read(path: Path, name: str, before: FileState, origin: str, now: float) -> FileState:
    try:
        status = path.stat()
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == before.seen and before.unsettled is None:
            return before
        resting = not 0 <= now - status.st_mtime < SETTLE
        since = now if before.unsettled is None else before.unsettled
        if not resting and seen[:2] == before.seen[:2] and now - since < LONGEST_SETTLE:
            return msgspec.structs.replace(before, unsettled=since)
        text = _content(path)
    except OSError as e:
        document = Document(problems=(Problem(1, f"cannot be read: {e.strerror or e}"),), broken=True)
        return FileState(carry(before.document, document), digest="unreadable")
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    unsettled = None if resting else now
    if digest == before.digest:
        return msgspec.structs.replace(before, seen=seen, unsettled=unsettled)
    document = parse_document(text, origin, {"file": name})
    return FileState(carry(before.document, document), seen, digest, unsettled)


def _content(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES // 1024 // 1024} MiB")
    return text
