"""Noticing, by inotify, that what stands under a path may have changed.

Only directories are watched, never files: a file that is replaced by renaming another over it has a new inode, which a watch on
the old one would never hear of. Watched are the directories that were searched, their parents (one may be deleted and made again)
and every directory that holds a symbolic link on the way to them or to one of their files: Kubernetes, consul-template and
deployment tools publish a new version by swapping a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import msgspec
from watchfiles import Change, awatch

from isthmus.registry.file.find import Place

STEP = 10
"""Milliseconds between looks at the inotify queue, and of quiet that end a burst."""
LONGEST = 50
"""Milliseconds after which a burst that does not end is reported."""
_MAX_LINKS = 40


class Watched(msgspec.Struct, frozen=True):
    """What is to be noticed: whatever happens inside `directories`, and what happens to each of `paths` itself."""

    directories: frozenset[Path]
    paths: frozenset[Path]


def watched_for(places: Iterable[Place]) -> Watched:
    """What to watch for the places where files were found, or would be.

    Raises:
        OSError: symbolic links lead round in a circle.

    """
    paths: set[Path] = set()
    directories: set[Path] = set()
    for place in places:
        _follow(place.begin, paths)
        directories.update(_follow(directory, paths) for directory in place.directories)
        for file in place.files:
            if file.is_symlink():
                _follow(file, paths)
    return Watched(frozenset(directories), frozenset(paths))


def _follow(path: Path, passed: set[Path]) -> Path:
    """The real path; `passed` gets every symbolic link on the way, and the real path."""
    at, todo = Path("/"), list(reversed(path.absolute().parts[1:]))
    links = 0
    while todo:
        step = at / todo.pop()
        if step.name == "..":
            at = at.parent
        elif step.is_symlink():
            passed.add(step)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = step.readlink()
            at = Path("/") if target.is_absolute() else at
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            at = step
    passed.add(at)
    return at


class Watch:
    """A watch that has begun; made by `watching`."""

    def __init__(self, what: Watched, changes: AsyncGenerator[set[tuple[Change, str]], None]) -> None:
        self._what = what
        self._changes = changes
        self._next = asyncio.ensure_future(anext(changes))

    async def changed(self, timeout: float) -> frozenset[Path]:
        """Paths that something happened to; none when nothing did within `timeout` seconds.

        Raises:
            OSError: a directory cannot be watched, or the system has no inotify watches left.

        """
        await asyncio.wait((self._next,), timeout=timeout)
        if not self._next.done():
            return frozenset()
        try:
            changes = self._next.result()
        except FileNotFoundError:
            return self._what.paths  # replaced before its watch began
        self._next = asyncio.ensure_future(anext(self._changes))
        return frozenset(Path(path) for _, path in changes)

    async def end(self) -> None:
        """Stop watching."""
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)
        await self._changes.aclose()


@contextlib.asynccontextmanager
async def watching(what: Watched) -> AsyncGenerator[Watch, None]:
    """Watch from here to the end of the block; nothing that happens in between is missed."""
    directories = {p.parent for p in what.paths if p.parent.is_dir()} | {d for d in what.directories if d.is_dir()}

    def concerns(_: Change, name: str) -> bool:
        path = Path(name)
        return path in what.paths or path.parent in what.directories

    watch = Watch(
        what,
        awatch(
            *sorted(directories),
            watch_filter=concerns,
            debounce=LONGEST,
            step=STEP,
            recursive=False,
            force_polling=False,
            ignore_permission_denied=True,
        ),
    )
    try:
        # The first step of the watch's task adds the inotify watches before it begins to wait.
        await asyncio.sleep(0)
        yield watch
    finally:
        await watch.end()
