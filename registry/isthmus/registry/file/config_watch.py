"""Noticing that a configuration file has become another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from isthmus.registry.file.find import Place
from isthmus.registry.file.watch import watched_for, watching

log = structlog.get_logger()

SETTLE = 0.3
"""Seconds without a change after which the file counts as finished: half of it may be valid, with fewer entries."""
TICK = 15.0
"""Seconds after which the file is looked at again, event or not, and after which watching is tried again."""


async def watch_config(path: Path, seen: tuple[int, ...], changed: asyncio.Event) -> None:
    """Set `changed` each time the file has another appearance than before, by inotify and, where that fails, by looking."""
    while True:
        try:
            what = await asyncio.to_thread(watched_for, [Place(path, (0, 0), (path,))])
            async with watching(what) as watch:
                touched: frozenset[Path] = frozenset()
                while not touched and await asyncio.to_thread(appearance, path) == seen:
                    touched = await watch.changed(TICK)
                while await watch.changed(SETTLE):
                    pass
            before, seen = seen, await asyncio.to_thread(appearance, path)
            if seen != before:
                changed.set()
        except OSError as e:
            log.warning("config.not_watched", path=str(path), error=e.strerror or str(e), again_in_s=TICK)
            await asyncio.sleep(TICK)


def appearance(path: Path) -> tuple[int, ...]:
    """What differs when the file is replaced or written to; empty when it is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
