"""Which files there are to read: a file, a directory, or all that match a pattern.

`services/` stands for the files in it, `teams/*/services.yaml` and `/etc/mesh/**/*.yaml` for what matches. A search begins at the
directory above the first wildcard, which has to be there: if it is not, nothing was found out. What is missing further down is no
match. Only `*.yaml`, `*.yml` and `*.json` count, unless a path names one file; hidden files and directories never.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

MAX_FILES = 10_000
"""Files that are read at the most."""
MAX_DIRECTORIES = 1_000
"""Directories that are searched, and watched, at the most."""

_SUFFIXES = (".yaml", ".yml", ".json")
_WILDCARD = re.compile(r"[*?\[]")


class Place(msgspec.Struct, frozen=True):
    """What one path or pattern stands for: where its search begins, the files, and every directory that was looked into.

    `identity` is the device and inode of the beginning, zeros for a single file.
    """

    begin: Path
    identity: tuple[int, int]
    files: tuple[Path, ...]
    directories: frozenset[Path] = frozenset()


class Found(msgspec.Struct, frozen=True):
    """All files by the names under which they are spoken of, and the places by their patterns."""

    files: Mapping[str, Path]
    places: Mapping[str, Place]


def find(patterns: Iterable[str]) -> Found:
    """Look for the files of some paths and patterns.

    Raises:
        OSError: a path, or the beginning of a pattern, is not there; a directory cannot be listed; there are too many.

    """
    places = {pattern: _place(pattern) for pattern in patterns}
    paths = sorted({path for place in places.values() for path in place.files})
    if len(paths) > MAX_FILES:
        raise OSError(f"has {len(paths)} files, at most {MAX_FILES} are read")
    # A file in the one directory that is read is known by its name; else by its path from what all have in common.
    begins = {place.begin for place in places.values()}
    common = os.path.commonpath([b if b.is_dir() else b.parent for b in begins])
    return Found({os.path.relpath(path, common): path for path in paths}, places)


def begin_of(pattern: str) -> Path:
    """What has to be there: the path itself, or the directory above the first wildcard."""
    parts = Path(pattern).absolute().parts
    literal = next((i for i, part in enumerate(parts) if _WILDCARD.search(part)), len(parts))
    return Path(*parts[:literal])


def _place(pattern: str) -> Place:
    begin = begin_of(pattern)
    rest = Path(pattern).absolute().parts[len(begin.parts) :]
    status = begin.stat()
    if not rest and not stat.S_ISDIR(status.st_mode):
        return Place(begin, (0, 0), (begin,))
    searched: set[Path] = set()
    files = {Path(entry.path) for entry in _search(begin, rest or ("*",), searched) if entry.name.endswith(_SUFFIXES)}
    return Place(begin, (status.st_dev, status.st_ino), tuple(sorted(files)), frozenset(searched))


def _search(directory: Path, rest: tuple[str, ...], searched: set[Path]) -> Iterator[os.DirEntry[str]]:
    """What is no directory and matches; `searched` gets the directories that were listed."""
    if directory not in searched and len(searched) >= MAX_DIRECTORIES:
        raise OSError(f"has more than {MAX_DIRECTORIES} directories below {directory}, so many cannot be watched")
    part, further = rest[0], rest[1:]
    for entry in _entries(directory, searched):
        if part == "**":
            # Links are not followed here: they may lead round in a circle.
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), rest, searched)
        elif fnmatchcase(entry.name, part):
            if not further and not entry.is_dir():
                yield entry
            elif further and entry.is_dir():
                yield from _below(Path(entry.path), further, searched)
    if part == "**":
        yield from _search(directory, further or ("*",), searched)


def _below(directory: Path, rest: tuple[str, ...], searched: set[Path]) -> Iterator[os.DirEntry[str]]:
    try:
        yield from _search(directory, rest, searched)
    except (FileNotFoundError, NotADirectoryError):
        return  # it went while we looked


def _entries(directory: Path, searched: set[Path]) -> list[os.DirEntry[str]]:
    searched.add(directory)
    with os.scandir(directory) as entries:
        return [e for e in entries if not e.name.startswith(".")]
