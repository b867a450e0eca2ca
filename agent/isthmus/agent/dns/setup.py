"""Writing a file of the machine's in such a way that it can be put back exactly as it was.

What was there is kept first: content, mode, owner, times, where a link led, or that there was nothing. Then the new file is put
in its place in one step. Who changes it afterwards has it: neither writing again nor undoing touches what is not ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from isthmus.registry.atomic import write_atomically

MAX_BYTES = 1 << 20
_OUR_MODE = 0o644


class SetupError(Exception):
    """Nothing was changed; one sentence for the operator."""


class Found(msgspec.Struct, frozen=True):
    """What a path leads to. `link`: where a symbolic link points; `content` is None where there is no file of its own."""

    link: str | None = None
    content: bytes | None = None
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    times: tuple[int, int] = (0, 0)

    def is_like(self, other: Found) -> bool:
        """Whether a reader sees no difference."""
        return (self.link, self.content) == (other.link, other.content)


class _Kept(msgspec.Struct, frozen=True):
    """The form on disk. `content` is text, or base64 where it is none. `written`: digests of what we have put there; `made`:
    directories that were not there before.
    """

    link: str | None
    content: str | None
    base64: bool
    mode: int
    owner: tuple[int, int]
    times: tuple[int, int]
    written: tuple[str, ...]
    made: tuple[str, ...]


class Setup:
    """One file, `path`, and the record of what was there before it, `record`."""

    def __init__(self, path: Path, record: Path) -> None:
        self._path = path
        self._record = record

    def before(self) -> Found:
        """What is there without us.

        Raises:
            SetupError: it cannot be read.

        """
        kept = self._load()
        return self._look() if kept is None else _before(kept)

    def write(self, to_content: Callable[[Found], bytes]) -> bool:
        """Put there what `to_content` makes of what was there before; whether anything changed.

        Raises:
            SetupError: somebody else has changed it since we did, or it cannot be written.

        """
        found, kept = self._look(), self._load()
        before = found if kept is None else _before(kept)
        written = () if kept is None else kept.written
        if kept is not None:
            self._check(found, before, written)
        content = to_content(before)
        digest = _digest(content)
        if kept is not None and found.link is None and found.content == content:
            return False
        try:
            made = self._missing_directories() if kept is None else kept.made
            self._keep(before, (*(w for w in written if w != digest), digest), made)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            mode, owner = (before.mode, before.owner) if before.content is not None else (_OUR_MODE, None)
            self._replace(content, mode, owner, None)
        except OSError as e:
            raise SetupError(self._cannot("written", e)) from None
        return True

    def undo(self) -> bool:
        """Put back what was there before; whether there was anything to put back.

        Raises:
            SetupError: somebody else has changed it since we did, or it cannot be written.

        """
        found, kept = self._look(), self._load()
        if kept is None:
            return False
        before = _before(kept)
        self._check(found, before, kept.written)
        try:
            if not found.is_like(before):
                self._put_back(before)
            for directory in map(Path, kept.made):
                with contextlib.suppress(OSError):  # somebody else's file is in it
                    directory.rmdir()
            self._record.unlink()
            with contextlib.suppress(OSError):
                self._record.parent.rmdir()
        except OSError as e:
            raise SetupError(self._cannot("put back", e)) from None
        return True

    def _check(self, found: Found, before: Found, written: tuple[str, ...]) -> None:
        ours = found.link is None and found.content is not None and _digest(found.content) in written
        if ours or found.is_like(before):
            return
        now = "is gone" if found == Found() else f"is now a link to {found.link}" if found.link else "has other content"
        raise SetupError(
            f"{self._path} {now}: somebody else changed it after dns-setup wrote it, so it is left alone; put it right by hand "
            f"(what was there before is in {self._record}), then delete {self._record}"
        )

    def _look(self) -> Found:
        try:
            status = self._path.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Found(link=str(self._path.readlink()))
            if not stat.S_ISREG(status.st_mode):
                raise SetupError(f"{self._path} is neither a file nor a link; expected one of them, or nothing")
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return Found()
        except OSError as e:
            raise SetupError(self._cannot("read", e)) from None
        if len(content) > MAX_BYTES:
            raise SetupError(f"{self._path} is larger than {MAX_BYTES} bytes")
        return Found(
            content=content,
            mode=stat.S_IMODE(status.st_mode),
            owner=(status.st_uid, status.st_gid),
            times=(status.st_atime_ns, status.st_mtime_ns),
        )

    def _put_back(self, before: Found) -> None:
        if before.link is not None:
            temporary = self._temporary()
            temporary.symlink_to(before.link)
            self._rename(temporary)
        elif before.content is None:
            self._path.unlink()
        else:
            self._replace(before.content, before.mode, before.owner, before.times)

    def _replace(self, content: bytes, mode: int, owner: tuple[int, int] | None, times: tuple[int, int] | None) -> None:
        temporary = self._temporary()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(content)
                if owner is not None and owner != (os.getuid(), os.getgid()):
                    os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
                file.flush()
                os.fsync(descriptor)
            if times is not None:
                os.utime(temporary, ns=times)
        except OSError:
            temporary.unlink()
            raise
        self._rename(temporary)

    def _rename(self, temporary: Path) -> None:
        try:
            temporary.replace(self._path)
        except OSError:
            temporary.unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _temporary(self) -> Path:
        path = self._path.with_name(f".{self._path.name}.isthmus-new")
        path.unlink(missing_ok=True)  # of one that was interrupted
        return path

    def _missing_directories(self) -> tuple[str, ...]:
        return tuple(str(d) for d in self._path.parents if not d.exists())

    def _load(self) -> _Kept | None:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise SetupError(f"{self._record} cannot be read: {e.strerror}") from None
        except msgspec.MsgspecError as e:
            raise SetupError(
                f"{self._record} is damaged ({e}): put {self._path} right by hand, then delete it"
            ) from None

    def _keep(self, before: Found, written: tuple[str, ...], made: tuple[str, ...]) -> None:
        content, encoded = None, False
        if before.content is not None:
            try:
                content = before.content.decode()  # whoever has to put it right by hand can read it
            except UnicodeDecodeError:
                content, encoded = base64.b64encode(before.content).decode(), True
        kept = _Kept(before.link, content, encoded, before.mode, before.owner, before.times, written, made)
        self._record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._record, msgspec.json.encode(kept))

    def _cannot(self, what: str, e: OSError) -> str:
        if e.errno == 16:  # EBUSY
            return (
                f"{self._path} cannot be {what}: it is mounted, as in a container; tell the container's runtime which DNS "
                "server to use (docker run --dns, or `dns:` in a compose file)"
            )
        remedy = "; run it as root" if isinstance(e, PermissionError) and os.getuid() else ""
        return f"{self._path} cannot be {what}: {e.strerror}{remedy}"


def _before(kept: _Kept) -> Found:
    content = None
    if kept.content is not None:
        content = base64.b64decode(kept.content) if kept.base64 else kept.content.encode()
    return Found(kept.link, content, kept.mode, kept.owner, kept.times)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
